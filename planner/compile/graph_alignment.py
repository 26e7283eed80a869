"""What a schedule retains from the forward for the backward, and which nodes of ``torch.compile``'s joint graph hold it.

``torch.compile`` captures the model in its own way, so its graph is aligned with the schedule's. Both contain the operators of
the forward in eager's order; an operator is recognized by its name and the shapes and dtypes of its results. All that the
schedule retains must be in the alignment.
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
"""Missing ops that an error names."""


@dataclass(frozen=True)
class _ForwardOperator:
    """An operator of the schedule's forward, as ``torch.compile`` would capture it.

    Attributes:
        form: what the alignment compares.
        results: for each of its results, the storage in the schedule's graph.
        mask_storages: storages inside of a dropout, which it returns as its mask in ``torch.compile``'s graph.
    """

    form: Form
    results: tuple[int, ...]
    mask_storages: tuple[int, ...] = ()


def retained_storages(schedule: Schedule) -> set[int]:
    """The storages that the forward writes and the backward reads before it recomputes them."""
    graph = schedule.graph
    recomputed: dict[int, bool] = {}  # value -> whether its newest computation is in the backward
    retained: set[int] = set()
    in_backward = False
    for step in schedule.steps:
        op = graph.ops[step]
        if op.outside:
            in_backward = True
        elif in_backward:
            retained.update(graph.values[value].storage for value in op.reads if recomputed.get(value) is False)
        recomputed.update((value, in_backward) for value in op.writes)
    return {storage for storage in retained if graph.storages[storage].bytes and not graph.storages[storage].constant}


def retained_nodes(schedule: Schedule, forward: Sequence[fx.Node]) -> dict[fx.Node, int]:
    """The nodes that hold what the schedule retains, with the bytes of each.

    ``forward`` are the nodes of the forward in eager's order.

    Raises:
        SavedSetError: no node holds something that the schedule retains.
    """
    nodes_of = _align(schedule.graph, forward)
    graph = schedule.graph
    retained = retained_storages(schedule)
    producers = {graph.values[v].storage: op.name for op in reversed(graph.ops) for v in op.writes}
    missing = tuple(producers[storage] for storage in sorted(retained) if storage not in nodes_of)
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise SavedSetError(
            f"torch.compile's graph of the model has no result of {', '.join(missing[:_MOST_NAMED])}{more}, which the schedule "
            "retains: torch.compile captured several graphs (find the breaks with fullgraph=True), or other inputs, or the "
            "model runs other operators when compiled. remat_planner.apply_schedule runs any schedule, also compiled "
            '(compiler="inductor")',
            ops=missing,
        )
    sizes: dict[fx.Node, int] = {}
    for storage in retained:
        node = nodes_of[storage]
        sizes[node] = max(sizes.get(node, 0), graph.storages[storage].bytes)
    return sizes


def _align(graph: Graph, forward: Sequence[fx.Node]) -> dict[int, fx.Node]:
    """The node among ``forward`` that holds each storage, where the alignment has one."""
    planned = _forward_operators(graph)
    nodes = [node for node in forward if _name(node) not in _SHARE_STORAGE and not is_view_operator(node.target)]
    alignment = SequenceMatcher(None, [one.form for one in planned], [_form(node) for node in nodes], autojunk=False)
    nodes_of: dict[int, fx.Node] = {}
    for start, node_start, length in alignment.get_matching_blocks():
        for k in range(length):
            one, results = planned[start + k], _results(nodes[node_start + k])
            nodes_of.update((storage, results[i]) for i, storage in enumerate(one.results) if i in results)
            nodes_of.update((storage, results[1]) for storage in one.mask_storages if 1 in results)
    return nodes_of


def _forward_operators(graph: Graph) -> list[_ForwardOperator]:
    """The operators of the forward that allocate storages. A dropout is one operator to ``torch.compile``, and here too."""
    readers: dict[int, list[int]] = {}
    for index, op in enumerate(graph.ops):
        for value in op.reads:
            readers.setdefault(graph.values[value].storage, []).append(index)
    loss = next((index for index, op in enumerate(graph.ops) if op.outside), len(graph.ops))
    in_dropout: set[int] = set()
    operators = []
    for index, op in enumerate(graph.ops[:loss]):
        read = {graph.values[value].storage for value in op.reads}
        results = [graph.values[value] for value in op.writes]
        allocates = bool(results) and not any(value.storage in read for value in results)
        if index in in_dropout or not allocates or _operator(op.name) in _SHARE_STORAGE:
            continue
        dropout = _dropout(graph, readers, index)
        if dropout is None:
            form = (_operator(op.name), tuple((value.shape, value.dtype) for value in results))
            operators.append(_ForwardOperator(form, tuple(value.storage for value in results)))
            continue
        in_dropout.update(dropout)
        output = graph.values[graph.ops[dropout[-1]].writes[0]]
        form = ("native_dropout", ((output.shape, output.dtype), (output.shape, "bool")))
        mask_storages = tuple(graph.values[v].storage for part in dropout[:-1] for v in graph.ops[part].writes)
        operators.append(_ForwardOperator(form, (output.storage,), mask_storages))
    return operators


def _dropout(graph: Graph, readers: dict[int, list[int]], index: int) -> list[int] | None:
    """The ops of a dropout whose first one is ``index``: empty mask, draw, scaling and product. None where it is no dropout."""
    parts = [index]
    for following in ("bernoulli", "div", "mul"):
        storage = graph.values[graph.ops[parts[-1]].writes[0]].storage
        after = [k for k in readers.get(storage, ()) if k > parts[-1] and _operator(graph.ops[k].name) == following]
        if _operator(graph.ops[index].name) != "empty_like" or not after or not graph.ops[after[0]].writes:
            return None
        parts.append(after[0])
    return parts


def _operator(op_name: str) -> str:
    """The operator in an op's name, without marks of in-place and fill variants."""
    return op_name.rpartition("/")[2].rpartition(".")[0].removesuffix("_fill").rstrip("_")


def _name(node: fx.Node) -> str:
    if node.target is torch.ops.aten._native_batch_norm_legit_functional.default:
        return _BATCH_NORM
    return "getitem" if node.target is operator.getitem else _operator(f"{operator_name(node.target)}.")


def _form(node: fx.Node) -> Form:
    name = _name(node)
    leaves: list[Any] = pytree.tree_leaves(node.meta.get("val"))
    results = [(tuple(leaf.shape), str(leaf.dtype).removeprefix("torch.")) for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return name, tuple(results[:3] if name == _BATCH_NORM else results)  # the others are the updated statistics


def _results(node: fx.Node) -> dict[int, fx.Node]:
    """The node of each result that some node reads."""
    if isinstance(node.meta.get("val"), torch.Tensor):
        return {0: node}
    return {int(user.args[1]): user for user in node.users if user.target is operator.getitem}  # type: ignore[arg-type]
