"""What a schedule keeps from the forward for the backward, and where that is in the joint graph of ``torch.compile``.

``torch.compile`` captures the model in its own way, so its graph is aligned with the schedule's: both have the operators of the
forward in eager's order, told apart by operator, shapes and dtypes. What the schedule keeps must be in the alignment.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.planner.errors import SavedSetError
from remat_planner.planner.torch_private import is_view_operator
from remat_planner.schedules import Graph, Schedule
from remat_planner.tracer.joint import operator_name

Form = tuple[str, tuple[tuple[tuple[int, ...], str], ...]]
"""Operator, and (shape, dtype) of each result."""

_SHARE_STORAGE = ("_unsafe_view", "getitem")
_BATCH_NORM = "native_batch_norm"
_MOST_NAMED = 4


@dataclass(frozen=True)
class _Executed:
    """An operator of the forward.

    Attributes:
        form: what it is told apart by.
        results: for each of its results the storage that holds it in the schedule's graph.
        inside: storages of what the schedule has in it and it hands on as its mask.
    """

    form: Form
    results: tuple[int, ...]
    inside: tuple[int, ...] = ()


def kept_storages(schedule: Schedule) -> set[int]:
    """The storages that the backward reads as the forward left them."""
    graph = schedule.graph
    newest: dict[int, bool] = {}  # value -> whether its newest computation is the backward's
    kept: set[int] = set()
    in_backward = False
    for step in schedule.steps:
        op = graph.ops[step]
        if op.outside:
            in_backward = True
        elif in_backward:
            kept.update(graph.values[value].storage for value in op.reads if newest.get(value) is False)
        newest.update((value, in_backward) for value in op.writes)
    return {storage for storage in kept if graph.storages[storage].bytes and not graph.storages[storage].constant}


def matched(schedule: Schedule, forward: Sequence[fx.Node]) -> dict[fx.Node, int]:
    """The nodes among ``forward``, in eager's order, that hold what the schedule keeps, with the bytes of each.

    Raises:
        SavedSetError: something that is kept is not there.
    """
    executed = _executed(schedule.graph)
    nodes = [node for node in forward if _name(node) not in _SHARE_STORAGE and not is_view_operator(node.target)]
    alignment = SequenceMatcher(None, [one.form for one in executed], [_form(node) for node in nodes], autojunk=False)
    where: dict[int, fx.Node] = {}
    for ours, theirs, length in alignment.get_matching_blocks():
        for k in range(length):
            one, node = executed[ours + k], nodes[theirs + k]
            results = _results(node)
            where.update((storage, results[place]) for place, storage in enumerate(one.results) if place in results)
            where.update((storage, results[1]) for storage in one.inside if 1 in results)
    graph = schedule.graph
    kept = kept_storages(schedule)
    makers = {graph.values[v].storage: op.name for op in reversed(graph.ops) for v in op.writes}
    missing = tuple(makers[storage] for storage in sorted(kept) if storage not in where)
    if missing:
        named = ", ".join(missing[:_MOST_NAMED]) + (
            f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        )
        raise SavedSetError(
            f"torch.compile's graph of the model has no result that is {named}, which the schedule keeps: it was captured in "
            "several graphs (find the breaks with fullgraph=True), or for other inputs, or runs other operators when compiled. "
            'remat_planner.apply_schedule runs any schedule, also compiled (compiler="inductor")',
            ops=missing,
        )
    sizes: dict[fx.Node, int] = {}
    for storage in kept:
        sizes[where[storage]] = max(sizes.get(where[storage], 0), graph.storages[storage].bytes)
    return sizes


def _executed(graph: Graph) -> list[_Executed]:
    """The operators of the forward that make storages, as ``torch.compile`` sees them: a dropout is one operator to it."""
    readers: dict[int, list[int]] = {}
    for index, op in enumerate(graph.ops):
        for value in op.reads:
            readers.setdefault(graph.values[value].storage, []).append(index)
    loss = next((index for index, op in enumerate(graph.ops) if op.outside), len(graph.ops))
    taken: set[int] = set()
    found = []
    for index, op in enumerate(graph.ops[:loss]):
        read = {graph.values[value].storage for value in op.reads}
        written = [graph.values[value] for value in op.writes]
        if index in taken or not written or _stem(op.name) in _SHARE_STORAGE or any(value.storage in read for value in written):
            continue
        parts = _dropout(graph, readers, index)
        if parts is None:
            form = (_stem(op.name), tuple((value.shape, value.dtype) for value in written))
            found.append(_Executed(form, tuple(value.storage for value in written)))
            continue
        taken.update(parts)
        output = graph.values[graph.ops[parts[-1]].writes[0]]
        form = ("native_dropout", ((output.shape, output.dtype), (output.shape, "bool")))
        inside = tuple(graph.values[v].storage for part in parts[:-1] for v in graph.ops[part].writes)
        found.append(_Executed(form, (output.storage,), inside))
    return found


def _dropout(graph: Graph, readers: dict[int, list[int]], index: int) -> list[int] | None:
    """The ops of a dropout that begins with ``index``: room for the mask, the draw, its scaling and the product."""
    parts = [index]
    for following in ("bernoulli", "div", "mul"):
        storage = graph.values[graph.ops[parts[-1]].writes[0]].storage
        after = [k for k in readers.get(storage, ()) if k > parts[-1] and _stem(graph.ops[k].name) == following]
        if _stem(graph.ops[index].name) != "empty_like" or not after or not graph.ops[after[0]].writes:
            return None
        parts.append(after[0])
    return parts


def _stem(name: str) -> str:
    """The operator in an op's name, without what says how it writes."""
    return name.rpartition("/")[2].rpartition(".")[0].removesuffix("_fill").rstrip("_")


def _name(node: fx.Node) -> str:
    if node.target is torch.ops.aten._native_batch_norm_legit_functional.default:
        return _BATCH_NORM
    return "getitem" if node.target is operator.getitem else _stem(f"{operator_name(node.target)}.")


def _form(node: fx.Node) -> Form:
    name = _name(node)
    leaves: list[Any] = pytree.tree_leaves(node.meta.get("val"))
    results = [(tuple(leaf.shape), str(leaf.dtype).removeprefix("torch.")) for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return name, tuple(results[:3] if name == _BATCH_NORM else results)  # the others are the updated statistics


def _results(node: fx.Node) -> dict[int, fx.Node]:
    """The node of each result that is used."""
    if isinstance(node.meta.get("val"), torch.Tensor):
        return {0: node}
    return {int(user.args[1]): user for user in node.users if user.target is operator.getitem}  # type: ignore[arg-type]
