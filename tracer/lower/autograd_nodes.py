"""What eager keeps allocated while one autograd node runs.

A node's backward holds the tensors that it saved and the gradients that arrived until its last operator has run: they are
variables of a function in C++ (``apply`` in torch/csrc/autograd/generated/Functions.cpp, ``evaluate_function`` in engine.cpp).
What it computes on the way to a gradient it holds until it has that gradient: temporaries of one expression in C++. The planned
step releases each after the last operator that reads it. So the product that reads a saved activation first, and then the one
that does not, take less in the plan than in eager.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import fx

from remat_planner.schedules import Graph
from remat_planner.tracer.joint import Joint

_ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


def with_eager_lifetimes(graph: Graph, joint: Joint) -> Graph:
    """``graph`` whose ops have the values in ``eager_reads`` that the autograd node which they belong to holds until then."""
    node_of = {node.meta["name"]: node for node in joint.ops}
    last_reader = {value: i for i, op in enumerate(graph.ops) for value in op.reads}
    leaving = set(graph.results)
    in_place = {v for k, value in enumerate(graph.values) if value.eager_base is not None for v in (k, value.eager_base)}
    ops = list(graph.ops)
    for run in _runs(graph, joint, node_of):
        written = {value for i in run for value in ops[i].writes}
        # Where expressions end that compute a gradient.
        ends = [i for i in run if any(v in leaving or last_reader.get(v, i) > run[-1] for v in ops[i].writes)]
        overwrites = _overwrites([joint.operators[node_of[ops[i].name].meta["operator"]].name for i in run])
        held: dict[int, dict[int, None]] = {}
        for value in dict.fromkeys(value for i in run for value in ops[i].reads):
            if value not in written:
                held.setdefault(run[-1], {})[value] = None
            elif value not in in_place and not overwrites:
                held.setdefault(next((end for end in ends if end >= last_reader[value]), run[-1]), {})[value] = None
        for end, values in held.items():
            own = (*ops[end].reads, *ops[end].writes)
            ops[end] = replace(ops[end], eager_reads=tuple(value for value in values if value not in own))
    return replace(graph, ops=tuple(ops))


def with_equal_gradients(graph: Graph, joint: Joint) -> Graph:
    """``graph`` in which the sum of gradients that a node computes several times in eager, as that of ``x * x``, holds all."""
    node_of = {node.meta["name"]: node for node in joint.ops}
    readers: dict[int, int] = {}
    for i, op in enumerate(graph.ops):
        for value in op.reads:
            readers.setdefault(value, i)
    ops = list(graph.ops)
    for op in graph.ops:
        meta = node_of[op.name].meta if op.name in node_of else {}
        if not meta.get("merged") or "operator" not in meta or not meta["in_backward"]:
            continue
        number = joint.operators[meta["operator"]].autograd_node
        count = sum(joint.operators[merged].autograd_node == number for merged in meta["merged"])
        for value in op.writes if number is not None else ():
            reader = readers.get(value)
            of_reader = None if reader is None else node_of.get(ops[reader].name)
            if reader is None or of_reader is None or of_reader.target not in _ADDITIONS or "operator" not in of_reader.meta:
                continue
            if joint.operators[of_reader.meta["operator"]].autograd_node == number:
                more = count * graph.storages[graph.values[value].storage].bytes
                ops[reader] = replace(ops[reader], eager_workspace=ops[reader].eager_workspace + more)
    return replace(graph, ops=tuple(ops))


def _overwrites(names: Sequence[str]) -> bool:
    """Whether eager computes in place what these operators of a node compute, as it does not for fake tensors.

    So does ``binary_cross_entropy_with_logits_backward`` in aten/src/ATen/native/Loss.cpp.
    """
    return tuple(names[:3]) == ("aten.sigmoid.default", "aten.sub.Tensor", "aten.mul.Tensor")


def _runs(graph: Graph, joint: Joint, node_of: Mapping[str, fx.Node]) -> Iterator[Sequence[int]]:
    """The ops of each autograd node, without the sums of gradients that the engine adds up after it."""

    def autograd_node(i: int) -> int | None:
        meta = node_of[graph.ops[i].name].meta if graph.ops[i].name in node_of else {}
        if "operator" not in meta or meta.get("repeated") or not meta["in_backward"]:
            return None
        return joint.operators[meta["operator"]].autograd_node

    for number, group in groupby(range(len(graph.ops)), key=autograd_node):
        run = list(group)
        while run and number is not None and node_of[graph.ops[run[-1]].name].target in _ADDITIONS:
            run.pop()
        if number is not None and len(run) > 1:
            yield run
