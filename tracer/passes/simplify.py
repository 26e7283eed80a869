"""Exact simplifications of a functional graph: identity views, copies to no end, repeated pure ops, dead work."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import tensors_of
from remat_planner.tracer.leaves import hashable_form
from remat_planner.tracer.operators import pin_reason
from remat_planner.tracer.passes.effects import has_effects, readers_of_old_value, updated_placeholders
from remat_planner.tracer.torch_private import hashable, same_sizes, storage_key


def simplify(graph: fx.Graph, keep: Iterable[fx.Node], own_memory: Iterable[fx.Node] = ()) -> None:
    """Remove nodes without changing a bit of the results.

    Args:
        graph: functional, changed in place.
        keep: nodes that stay: outputs, each distinct to the caller.
        own_memory: outputs and gradients. What eager computes in memory of its own for two of them is not merged: a caller may
            write into one, and autograd copies a gradient whose memory another one has.
    """
    kept = set(keep)
    _drop_identity_views(graph, kept)
    _drop_copies_before_scatters(graph, kept)
    _merge_repeated(graph, kept, {storage_key(t) for node in own_memory for t in tensors_of(node)})
    _drop_dead(graph)


def _drop_identity_views(graph: fx.Graph, kept: set[fx.Node]) -> None:
    """Replace each view that shows its base, or a base of its base, exactly as it is, by that base."""
    output = graph.output_node()
    returned_as: dict[fx.Node, fx.Node] = {}  # of results: to change one argument takes as long as to change all of them
    geometry: dict[fx.Node, tuple[Any, ...]] = {}
    base: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        geometry[node] = _geometry(value)
        viewed = node.args[0] if node.op == "call_function" and node.args else None
        if not isinstance(viewed, fx.Node) or viewed not in geometry or has_effects(node):
            continue
        if geometry[viewed][0] != geometry[node][0]:  # another storage: no view
            continue
        base[node] = viewed
        if node in kept:
            continue
        above: fx.Node | None = viewed
        while above is not None and not _is_same(geometry[above], geometry[node]):
            above = base.get(above)
        if above is not None:
            returned_as[node] = above
            node.replace_all_uses_with(above, lambda user: user is not output)
    output.args = fx.node.map_arg(output.args, lambda node: returned_as.get(node, node))


def _drop_copies_before_scatters(graph: fx.Graph, kept: set[fx.Node]) -> None:
    """Scatter what ``base[..., k:] = x`` writes from ``x`` itself.

    A functional copy is laid out as the slice that it replaces, and its kernel allocates the memory of the whole base for it.
    """
    for node in graph.nodes:
        if node.target is not torch.ops.aten.copy.default or node in kept:
            continue
        source = node.args[1]
        if not all(user.target in _SCATTERS and user.args[0] is not node and node in user.args for user in node.users):
            continue
        value, written = source.meta["val"], node.meta["val"]
        if (
            value.dtype == written.dtype
            and value.dim() == written.dim()
            and same_sizes(tuple(value.shape), tuple(written.shape))
        ):
            node.replace_all_uses_with(source)


_SCATTERS = tuple(
    getattr(torch.ops.aten, name).default
    for name in ("slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter")
)


def _is_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two geometries of views of one storage are equal."""
    if one[2:] != other[2:] or len(one[1]) != len(other[1]):
        return False
    return same_sizes(one[1], other[1])


def _geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (
        storage_key(tensor),
        (tensor.storage_offset(), *tensor.shape, *tensor.stride()),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _merge_repeated(graph: fx.Graph, kept: set[fx.Node], owned: set[int]) -> None:
    """Compute once what the forward, or the backward, computes twice from the same arguments.

    What the caller's own checkpointing runs again in the backward counts as of the forward: the plan decides what to recompute.
    Readers of state that the step updates are left alone: the state may change between them. ``owned`` are the storages of
    results.
    """
    changing = {reader for placeholder in updated_placeholders(graph.nodes) for reader in readers_of_old_value(placeholder)}
    first_of: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr") or node in kept or node in changing:
            continue
        if node.op == "call_function" and (has_effects(node) or pin_reason(node.target) is not None):
            continue
        try:
            first = first_of.setdefault(_key(node), node)
        except TypeError:  # an argument that cannot be hashed
            continue
        if first is not node:
            memory, memory_of_first = ({storage_key(t) for t in tensors_of(n)} for n in (node, first))
            if memory & owned and memory != memory_of_first:
                if memory_of_first & owned:
                    continue
                owned |= memory_of_first
            if "val" in node.meta:
                _replace_fakes(node, first.meta["val"])
            if "operator" in node.meta:
                first.meta["merged"] = (*first.meta.get("merged", ()), node.meta["operator"])
            node.replace_all_uses_with(first)


def _key(node: fx.Node) -> tuple[Any, ...]:
    """Equal for nodes that compute the same."""

    def key(leaf: Any) -> Hashable:
        return type(leaf), repr(leaf) if isinstance(leaf, float) else hashable(leaf)  # 0.0 == -0.0

    return (
        node.op,
        node.target,
        hashable_form((node.args, node.kwargs), key),
        None if node.op == "get_attr" else (_is_of_backward(node), node.meta.get("apart")),
    )


def _is_of_backward(node: fx.Node) -> bool:
    return bool(node.meta.get("in_backward", False)) and not node.meta.get("repeated", False)


def _replace_fakes(node: fx.Node, value: Any) -> None:
    """Give ``node`` the fake ``value``, and its views fakes that view ``value``."""
    memory = {storage_key(t) for t in tensors_of(node)}
    node.meta["val"] = value
    for user in node.users:
        views_node = not memory.isdisjoint(storage_key(t) for t in tensors_of(user))
        if user.op != "call_function" or has_effects(user) or not views_node:
            continue
        assert callable(user.target)
        args, kwargs = fx.node.map_arg((user.args, user.kwargs), lambda n: n.meta["val"])
        with torch.no_grad():
            _replace_fakes(user, user.target(*args, **kwargs))


def _drop_dead(graph: fx.Graph) -> None:
    """Erase unused nodes. A dead draw stays, since it advances the generator; so does an update of state."""
    for node in reversed(list(graph.nodes)):
        if node.op in ("placeholder", "output") or node.users:
            continue
        if node.op == "get_attr" or not has_effects(node):
            graph.erase_node(node)
