"""What eager keeps allocated while one autograd node runs.

A node's backward holds the tensors that it saved and the gradients that arrived until its last operator has run: they are
variables of a function in C++ (``apply`` in torch/csrc/autograd/generated/Functions.cpp, ``evaluate_function`` in engine.cpp).
The planned step releases each after the last operator that reads it. So the product that reads a saved activation first, and
then the one that does not, take less in the plan than in eager.
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
    """``graph`` in which the last op of each autograd node has the values in ``eager_reads`` that the node holds until then."""
    node_of = {node.meta["name"]: node for node in joint.ops}
    ops = list(graph.ops)
    for run in _runs(graph, joint, node_of):
        written = {value for i in run for value in ops[i].writes}
        read = dict.fromkeys(value for i in run for value in ops[i].reads if value not in written)
        last = ops[run[-1]]
        ops[run[-1]] = replace(last, eager_reads=tuple(value for value in read if value not in last.reads))
    return replace(graph, ops=tuple(ops))


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
