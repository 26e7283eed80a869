"""The additions of gradients that autograd makes in place.

Where several edges of the autograd graph lead to a parameter, autograd adds up the gradients that arrive. It adds into the
first term if nothing else refers to that tensor or to its memory (``accumulate`` in torch/csrc/autograd/input_buffer.cpp), so
the sum allocates nothing. Each of these keeps it from that:

- The first term is a view: a view refers to its base, which has the same memory. Most of eager's gradients of linear layers are
  views (``t()``), and those of their biases (``view()``).
- Something else reads the term later, or retains it.

The planned step leaves out views that cancel each other, so that it adds in place where eager does not. Where it makes such an
addition itself, it makes it in place too. It adds up the gradients of activations in new memory: a sum in place is made
only once, and some budgets need it again.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from remat_planner.schedules import Graph, Op
from remat_planner.tracer.joint import Joint, is_dense
from remat_planner.tracer.operators import graph_function_name

SUM_IN_PLACE = "autograd adds up this gradient in place"
"""Why such a sum is pinned; in the fingerprint of saved schedules."""


def with_sums_in_place(graph: Graph, joint: Joint) -> Graph:
    """``graph`` in which a sum that autograd makes in place lies in the storage of its first term, and is made once."""
    node_of = {node.meta["name"]: node for node in joint.ops}
    sums = {graph.by_name[node.meta["name"]] for gradient in joint.gradients for node in gradient.sums}
    memory = _Memory(
        readers=_readers(graph),
        allocated_by={storage: op for op, new in zip(graph.ops, graph.allocated, strict=True) for storage in new},
        returned={graph.values[value].storage for value in graph.results},
    )
    in_place = [i for i in sorted(sums) if _is_owned(graph, i, memory, node_of)]
    if not in_place:
        return graph
    ops = list(graph.ops)
    moved: dict[int, int] = {}  # the storage of a sum: that of its first term, which may be a sum itself
    for i in in_place:
        first, total = (graph.values[value].storage for value in (graph.ops[i].reads[0], graph.ops[i].writes[0]))
        moved[total] = moved.get(first, first)
        in_eager = graph.storages[total].bytes if node_of[ops[i].name].meta.get("adds_to_view") else 0
        ops[i] = replace(ops[i], pinned=ops[i].pinned or SUM_IN_PLACE, eager_workspace=in_eager)
    return with_storages_shared(replace(graph, ops=tuple(ops)), moved)


def with_storages_shared(graph: Graph, moved: Mapping[int, int]) -> Graph:
    """``graph`` without the storages that are keys of ``moved``: what lies there lies in the storage of the value instead."""
    left = [s for s in range(len(graph.storages)) if s not in moved]
    index = {s: k for k, s in enumerate(left)}
    return replace(
        graph,
        values=tuple(replace(value, storage=index[moved.get(value.storage, value.storage)]) for value in graph.values),
        storages=tuple(graph.storages[s] for s in left),
    )


@dataclass(frozen=True)
class _Memory:
    """For each storage the ops that read it (``_readers``) and the one that allocates it; the storages of results."""

    readers: Mapping[int, set[int]]
    allocated_by: Mapping[int, Op]
    returned: Collection[int]


def _readers(graph: Graph) -> Mapping[int, set[int]]:
    """For each storage, the ops that read it for something else than another view of it."""
    readers: dict[int, set[int]] = defaultdict(set)
    for i, op in enumerate(graph.ops):
        written = {graph.values[value].storage for value in op.writes}
        for value in op.reads:
            if written != {graph.values[value].storage}:
                readers[graph.values[value].storage].add(i)
    return readers


def _is_owned(graph: Graph, i: int, memory: _Memory, node_of: Mapping[str, fx.Node]) -> bool:
    """Whether the sum ``i`` can be made in its first term: nothing else needs that or refers to its memory."""
    op, node = graph.ops[i], node_of[graph.ops[i].name]
    first, result = node.args[0], node.meta["val"]
    if len(op.reads) < 2 or not isinstance(first, fx.Node):
        return False
    term = first.meta["val"]
    storage = graph.values[op.reads[0]].storage
    allocated_by = memory.allocated_by.get(storage)
    if allocated_by is None or allocated_by.outside or allocated_by.phase != "backward":
        return False
    allocates = node_of[allocated_by.name]
    is_view = first is not allocates and not (first.target is operator.getitem and first.args[0] is allocates)
    return (
        memory.readers.get(storage) == {i}
        and not is_view
        and storage not in memory.returned
        and _is_torchs_own(allocates.target)
        and is_dense(term)
        and (term.shape, term.stride(), term.dtype) == (result.shape, result.stride(), result.dtype)
        and term.untyped_storage().nbytes() == result.nbytes
    )


def _is_torchs_own(target: Any) -> bool:
    """Whether nothing retains the results of ``target`` but its caller; somebody else's operators and functions may."""
    if isinstance(target, torch._ops.OpOverload):
        return target.namespace == "aten"
    return graph_function_name(target).startswith("tracer.pure_forms.")
