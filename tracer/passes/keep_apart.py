"""Marks operators that stand for one thing in the flow of gradients."""

from __future__ import annotations

from torch import fx

from remat_planner.tracer.record import Recording


def keep_apart(graph: fx.Graph, recording: Recording) -> None:
    """Mark what stands for one thing in the flow of gradients, so that it is not merged with what looks like it.

    Without some of the tangents, an addition of autograd's leaves out a term, and a node that gets some of its gradients takes
    zeros for the others. An operator that now computes the same elsewhere would not.
    """
    if recording.flow is None:
        return
    for node in graph.nodes:
        number = node.meta.get("operator")
        autograd_node = None if number is None else recording.operators[number].autograd_node
        if number in recording.flow.sums:
            node.meta["apart"] = "addition"
        elif autograd_node in recording.flow.meetings and not node.meta.get("repeated", False):
            node.meta["apart"] = autograd_node
