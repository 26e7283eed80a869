"""Operators of the backward that write their result over the gradient that they alone read.

A ReLU's backward reads the gradient that arrives and what the forward retained. Both parts of a chain (``in_place_chains``)
would need the latter; here only the second does, and the first may run long before it is recomputed. So the two stay ops of
their own, and a gradient that is written over is computed once, as sums of gradients in place are.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import fx

from remat_planner.schedules import Graph
from remat_planner.tracer.joint import Joint, operator_name, tensors_of, with_nodes_changed
from remat_planner.tracer.lower.sums_in_place import with_storages_shared
from remat_planner.tracer.lower.write_over import (
    PREVIOUS,
    adds_gradients,
    is_fresh,
    is_view,
    place_written_over,
    written_over,
)
from remat_planner.tracer.operators import graph_function

RESULT_IN_PLACE = "it is computed in the place of the gradient that it reads"
"""Why such an op runs once; in the fingerprint of saved schedules."""

_LARGE = 0.5
"""Of the bytes of the result: with another argument of so many, a chain would cost memory."""


def overwriters(joint: Joint) -> dict[fx.Node, int]:
    """The nodes that can write over a gradient, with the position of that argument."""
    kept = {node for g in joint.gradients for node in (g.node, *g.contributions, *g.sums) if node is not None}
    found = {}
    for node in joint.ops:
        if node in kept or not node.meta["in_backward"] or node.meta["phase"] != "backward":
            continue
        gradients = [n for n in node.all_input_nodes if n.op == "call_function" and n.meta["in_backward"]]
        if len(gradients) != 1 or gradients[0] in kept:
            continue
        place = place_written_over(node, gradients[0])
        if place is not None and _is_owned(gradients[0]) and _reads_much(node, gradients[0]):
            found[node] = place
    return found


def with_overwriting(joint: Joint, places: Mapping[fx.Node, int]) -> Joint:
    """``joint`` with these of its ``overwriters``; their ``meta["over"]`` is the position of the argument."""
    if not places:
        return joint

    def change(copied: fx.Node, node: fx.Node) -> None:
        if node in places:
            copied.target = _over(node.target, places[node])
            copied.meta |= {"over": places[node], "pinned": RESULT_IN_PLACE, "wholes": node.meta.get("wholes", (node,))}

    return with_nodes_changed(joint, change)


def overwriting_as(joint: Joint, graph: Graph) -> Joint:
    """``joint`` with those overwriting nodes that overwrite in ``graph``."""
    names = {op.name for op in graph.ops if op.pinned == RESULT_IN_PLACE}
    if not names:
        return joint
    return with_overwriting(joint, {node: place for node, place in overwriters(joint).items() if node.meta["name"] in names})


def with_results_in_place(graph: Graph, joint: Joint) -> Graph:
    """``graph`` in which the result of each overwriting node of ``joint`` lies in the storage of what it writes over."""
    over = {graph.by_name[node.meta["name"]]: node.args[node.meta["over"]] for node in joint.ops if "over" in node.meta}
    if not over:
        return graph
    moved: dict[int, int] = {}
    for i, previous in sorted(over.items()):
        assert isinstance(previous, fx.Node)
        first = graph.values[graph.ops[graph.by_name[previous.meta["name"]]].writes[0]].storage
        moved[graph.values[graph.ops[i].writes[0]].storage] = moved.get(first, first)
    return with_storages_shared(graph, moved)


def _is_owned(gradient: fx.Node) -> bool:
    """Whether an operator of the backward allocates ``gradient``, and nothing else than its one reader refers to its memory."""
    made = gradient
    while len(made.users) == 1:
        source: Any = made.args[0] if made.args else None
        if made.target is operator.getitem and made.args[1] == 0:
            return bool(source.meta["in_backward"]) and not source.meta["random"] and is_fresh(source, made)
        if not is_view(made):
            return not adds_gradients(made) and is_fresh(made, made)
        made = source
        if made.op != "call_function" or not made.meta["in_backward"]:
            return False
    return False


def _reads_much(node: fx.Node, gradient: fx.Node) -> bool:
    others = [n for n in node.all_input_nodes if n is not gradient and n.op == "call_function"]
    return sum(t.untyped_storage().nbytes() for n in others for t in tensors_of(n)) > _LARGE * gradient.meta["val"].nbytes


@cache
def _over(target: Any, place: int) -> Callable[..., torch.Tensor]:
    step = written_over(target)
    assert step is not None

    @graph_function(f"tracer.overwriting.{operator_name(target)}")
    def run(*args: Any, **kwargs: Any) -> torch.Tensor:
        return step(args[place], [PREVIOUS if k == place else argument for k, argument in enumerate(args)], kwargs)

    run.__name__ = run.__qualname__ = operator_name(target)
    return run
