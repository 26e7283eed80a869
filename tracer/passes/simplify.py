"""Exact simplifications of a pure graph: identity views, repeated pure ops, dead work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import hidden_updates, is_random, pin_reason, written_arguments


def simplify(graph: fx.Graph, keep: Iterable[fx.Node]) -> None:
    """Remove what does not change a bit of the results; the nodes of ``keep`` (outputs, told apart by the caller) stay."""
    kept = set(keep)
    _drop_identity_views(graph, kept)
    _merge_repeated(graph, kept)
    drop_dead(graph)


def drop_dead(graph: fx.Graph) -> None:
    """Erase nodes that nothing needs; a dead draw stays, since it moves the generator, and so does what updates state."""
    for node in reversed(list(graph.nodes)):
        if node.op in ("placeholder", "output") or node.users:
            continue
        if node.op == "get_attr" or not has_effects(node):
            graph.erase_node(node)


def has_effects(node: fx.Node) -> bool:
    """Whether running ``node`` does more than to compute its result."""
    func = node.target
    if isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable:
        return True
    return is_random(func, node.args, node.kwargs) or bool(hidden_updates(func, node.args, node.kwargs)) or _is_collective(func)


def _is_collective(func: Any) -> bool:
    reason = pin_reason(func)
    return reason is not None and not reason.startswith("routing")


def _geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (
        tensor.untyped_storage()._cdata,
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _drop_identity_views(graph: fx.Graph, kept: set[fx.Node]) -> None:
    """Let the readers of a view that shows a tensor exactly as it (or one that it was made from) is read that one instead."""
    geometry: dict[fx.Node, tuple[Any, ...]] = {}
    base: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        geometry[node] = _geometry(value)
        viewed = node.args[0] if node.op == "call_function" and node.args else None
        if (
            not isinstance(viewed, fx.Node)
            or viewed not in geometry
            or geometry[viewed][0] != geometry[node][0]
            or has_effects(node)
        ):
            continue
        base[node] = viewed
        if node in kept:
            continue
        above: fx.Node | None = viewed
        while above is not None:
            if geometry[above] == geometry[node]:
                node.replace_all_uses_with(above)
                break
            above = base.get(above)


def updated_placeholders(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Placeholders that the step writes to: by ``copy_``, or by batch normalisation behind its schema's back."""
    updated: dict[fx.Node, None] = {}
    for node in nodes:
        if node.op != "call_function":
            continue
        written = [node.args[i] for i in hidden_updates(node.target, node.args, node.kwargs) if i < len(node.args)]
        for target in (*written_arguments(node.target, node.args, node.kwargs), *written):
            if isinstance(target, fx.Node) and target.op == "placeholder":
                updated[target] = None
    return list(updated)


def readers(placeholder: fx.Node) -> list[fx.Node]:
    """Ops that read an updated placeholder or a view of one: run again after the update they would see the new value.

    The backward of batch normalisation is passed the running statistics, but uses those of the batch.
    """
    storage = placeholder.meta["val"].untyped_storage()._cdata
    found: dict[fx.Node, None] = {}
    stack = [placeholder]
    while stack:
        for user in stack.pop().users:
            name = getattr(user.target, "__name__", "")
            if user in found or user.op == "output" or "batch_norm_backward" in name:
                continue
            found[user] = None
            value = user.meta.get("val")
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata == storage:
                stack.append(user)
    return list(found)


def _merge_repeated(graph: fx.Graph, kept: set[fx.Node]) -> None:
    """Compute once what is computed twice from the same arguments, within the forward and within the backward.

    What reads state that changes in between is not the same.
    """
    changing = {reader for placeholder in updated_placeholders(graph.nodes) for reader in readers(placeholder)}
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr") or node in kept or node in changing:
            continue
        if node.op == "call_function" and (has_effects(node) or pin_reason(node.target) is not None):
            continue
        arguments, spec = pytree.tree_flatten((node.args, node.kwargs))
        try:
            key = (
                node.op,
                node.target,
                tuple((type(a), repr(a) if isinstance(a, float) else a) for a in arguments),  # 0.0 == -0.0
                str(spec),
                None if node.op == "get_attr" else node.meta.get("in_backward", False),
            )
            first = seen.setdefault(key, node)
        except TypeError:  # an argument that cannot be hashed: not compared
            continue
        if first is not node:
            if "val" in node.meta:
                _view_instead(node, first.meta["val"])
            node.replace_all_uses_with(first)


def _view_instead(node: fx.Node, value: Any) -> None:
    """Let the fakes of what views the memory of ``node`` view that of ``value``, which takes its place."""
    memory = {t.untyped_storage()._cdata for t in pytree.tree_leaves(node.meta["val"]) if isinstance(t, torch.Tensor)}
    node.meta["val"] = value
    for user in node.users:
        shown = [t for t in pytree.tree_leaves(user.meta.get("val")) if isinstance(t, torch.Tensor)]
        if user.op != "call_function" or has_effects(user) or memory.isdisjoint(t.untyped_storage()._cdata for t in shown):
            continue
        assert callable(user.target)
        args, kwargs = fx.node.map_arg((user.args, user.kwargs), lambda n: n.meta["val"])
        with torch.no_grad():
            _view_instead(user, user.target(*args, **kwargs))
