"""A training loop that drops the model's outputs before its backward, as ``criterion(model(x), y).backward()`` does.

By default the caller is taken to hold them, in a variable such as ``logits``, until the step ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from remat_planner.schedules import Graph, TrainingStateError, lifetimes
from remat_planner.tracer import Joint


def with_dropped_outputs(graph: Graph, joint: Joint) -> Graph:
    """``graph`` in which the outputs do not outlive the caller's loss, which still finds all of them.

    An output at which the backward itself starts stays: a loss that the model computes.

    Raises:
        TrainingStateError: the backward starts at outputs that are more than a number, so that autograd holds them.
    """
    if joint.loss is None and any(node.meta["val"].numel() > 1 for node in joint.tangent_nodes):
        raise TrainingStateError(
            "outputs='dropped' needs the loss, which is what drops them: without one the backward starts at the outputs "
            "themselves, and holds them. Give it: plan(..., loss=...)"
        )
    starts = () if joint.loss is not None else joint.tangent_outputs
    of_leaf = output_values(graph, joint)
    kept = {graph.values[of_leaf[leaf]].storage for leaf in starts if leaf in of_leaf}
    dropped = {value for value in of_leaf.values() if graph.values[value].storage not in kept}
    ops = tuple(
        replace(op, reads=tuple(dict.fromkeys((*op.reads, *sorted(dropped))))) if op.outside else op for op in graph.ops
    )
    return replace(graph, ops=ops, results=tuple(value for value in graph.results if value not in dropped))


def with_held_outputs(graph: Graph, joint: Joint) -> Graph:
    """``graph`` in which the outputs outlive the step."""
    return replace(graph, results=tuple(dict.fromkeys((*graph.results, *output_values(graph, joint).values()))))


def retained_outputs(graph: Graph, joint: Joint, steps: Sequence[int]) -> frozenset[int]:
    """Output leaves whose memory the schedule itself retains beyond the caller's loss."""
    loss = next((step for step, i in enumerate(steps) if graph.actions[i].outside), len(steps))
    pieces = lifetimes(graph, steps)
    retained = set(pieces.storage[(pieces.birth <= loss) & (pieces.death > loss)].tolist())
    return frozenset(leaf for leaf, value in output_values(graph, joint).items() if graph.values[value].storage in retained)


def output_values(graph: Graph, joint: Joint) -> dict[int, int]:
    """The value in ``graph`` of each output leaf that an op computes in memory of its own."""
    values = {value.name: k for k, value in enumerate(graph.values)}
    found = {}
    for leaf, output in enumerate(joint.outputs):
        value = None if output.node is None else values.get(output.node.meta.get("name", ""))
        if value is not None and not graph.storages[graph.values[value].storage].constant:
            found[leaf] = value
    return found
