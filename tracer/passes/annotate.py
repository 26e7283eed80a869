"""Names, phases and restrictions of the nodes of a joint graph; ``tracer.joint`` says what each entry of ``meta`` means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import hidden_updates, is_random, operator_name, pin_reason, written_arguments
from remat_planner.tracer.passes.simplify import has_effects, readers, updated_placeholders


def annotate(graph: fx.Graph, tangents: Iterable[fx.Node], outputs: Iterable[fx.Node], state: Mapping[fx.Node, str]) -> None:
    """Write ``name``, ``module``, ``source``, ``phase``, ``auxiliary``, ``random``, ``pinned`` and ``once`` on every op of
    ``graph``.

    ``outputs`` are the nodes that the step returns, ``state`` says what each placeholder but the tangents is.
    """
    ops = [node for node in graph.nodes if node.op == "call_function"]
    dependent = set(tangents)
    for node in ops:
        if any(a in dependent for a in node.all_input_nodes):
            dependent.add(node)
    updated = updated_placeholders(ops)
    stale = {reader: state[placeholder] for placeholder in updated for reader in readers(placeholder)}
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


def _pinned(node: fx.Node, stale: dict[fx.Node, str]) -> str | None:
    reason = pin_reason(node.target)
    if reason is None and written_arguments(node.target, node.args, node.kwargs):
        reason = "writes in place"
    if reason is None and node in stale and not node.meta["once"]:
        reason = f"reads {stale[node]}, which the forward updates"
    if reason is None and _copies_to_host(node):
        reason = "a copy from the device to the host"
    return reason


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
    """What outputs, updates of state, the random stream and readers of state before its update need to run in the forward."""
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
    seen: Counter[str] = Counter()
    for node in ops:
        stem = operator_name(node.target)
        if node.meta["in_backward"]:
            stem = f"backward/{stem}"
        if node.meta["module"]:
            stem = f"{node.meta['module']}/{stem}"
        node.meta["name"] = f"{stem}.{seen[stem]}"
        seen[stem] += 1
