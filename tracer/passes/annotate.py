"""Names, phases and restrictions of the ops of a joint graph; ``tracer.joint.graph`` says what each entry of ``meta`` means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import operator_name
from remat_planner.tracer.operators import hidden_updates, is_random, pin_reason, written_arguments
from remat_planner.tracer.passes.effects import has_effects, readers_of_old_value, updated_placeholders


def annotate(graph: fx.Graph, tangents: Iterable[fx.Node], outputs: Iterable[fx.Node], state: Mapping[fx.Node, str]) -> None:
    """Write every entry of ``meta`` that the recording has not written on each op of ``graph``.

    Args:
        graph: the functional, simplified graph.
        tangents: placeholders of the gradients that arrive.
        outputs: nodes that the step returns.
        state: in words, what every other placeholder holds ("buffer norm.running_mean").
    """
    ops = [node for node in graph.nodes if node.op == "call_function"]
    # What only the backward draws or updates has its place there, although it may depend on no arriving gradient.
    effects_of_backward = [node for node in ops if node.meta.get("in_backward", False) and has_effects(node)]
    dependent = _dependent_on([*tangents, *effects_of_backward], ops)
    stale = {
        reader: state[placeholder] for placeholder in updated_placeholders(ops) for reader in readers_of_old_value(placeholder)
    }
    for node in ops:
        meta = node.meta
        meta.setdefault("module", "")
        meta.setdefault("source", "")
        meta.setdefault("in_backward", False)
        meta["phase"] = "backward" if node in dependent else "forward"
        meta["random"] = is_random(node.target, node.args, node.kwargs)
        meta["once"] = hidden_updates(node.target, node.args, node.kwargs)
        meta["pinned"] = _pinned(node, stale)
    needed = _needed_by_forward(ops, outputs, dependent, stale)
    for node in ops:
        node.meta["auxiliary"] = node not in dependent and node not in needed
    _name(ops)


def _dependent_on(tangents: Iterable[fx.Node], ops: list[fx.Node]) -> set[fx.Node]:
    dependent = set(tangents)
    for node in ops:
        if any(argument in dependent for argument in node.all_input_nodes):
            dependent.add(node)
    return dependent


def _pinned(node: fx.Node, stale: Mapping[fx.Node, str]) -> str | None:
    """Why ``node`` must run exactly once; ``stale`` names the updated state that an op reads."""
    reason = pin_reason(node.target)
    if reason is not None and not node.meta.get("repeats", False):
        return reason
    if written_arguments(node.target, node.args, node.kwargs):
        return "writes in place"
    if node in stale and not node.meta["once"]:
        return f"reads {stale[node]}, which the forward updates"
    return "a copy from the device to the host" if _copies_to_host(node) else None


def _copies_to_host(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return (
        isinstance(value, torch.Tensor)
        and value.device.type == "cpu"
        and any(
            isinstance(a.meta.get("val"), torch.Tensor) and a.meta["val"].device.type not in ("cpu", "meta")
            for a in node.all_input_nodes
        )
    )


def _needed_by_forward(
    ops: list[fx.Node], outputs: Iterable[fx.Node], dependent: set[fx.Node], stale: Mapping[fx.Node, str]
) -> set[fx.Node]:
    """The ops that must run in the forward: for outputs, for effects, or to read state before its update."""
    stack: list[Any] = list(outputs)
    stack += [n for n in ops if n not in dependent and not n.meta["in_backward"] and (has_effects(n) or n in stale)]
    needed: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    return needed


def _name(ops: list[fx.Node]) -> None:
    count: Counter[str] = Counter()
    for node in ops:
        stem = operator_name(node.target)
        if node.meta["in_backward"]:
            stem = f"backward/{stem}"
        if node.meta["module"]:
            stem = f"{node.meta['module']}/{stem}"
        node.meta["name"] = f"{stem}.{count[stem]}"
        count[stem] += 1
