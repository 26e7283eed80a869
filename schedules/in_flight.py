"""Memory of several forwards in flight: what a pipeline stage holds when it runs them before the first backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from remat_planner.schedules.graph import Graph
from remat_planner.schedules.instances import lifetimes
from remat_planner.schedules.simulate import simulate


def held_bytes(graph: Graph, steps: Sequence[int]) -> int:
    """Bytes that a forward holds until its backward starts, its outputs included and constants excluded.

    The caller's loss separates the two; 0 for a graph without one.
    """
    loss_step = next((step for step, op in enumerate(steps) if graph.actions[op].outside), None)
    if loss_step is None:
        return 0
    pieces = lifetimes(graph, steps)
    resident = (pieces.birth < loss_step) & (pieces.death > loss_step)
    results = [graph.values[value].storage for value in graph.results]
    loss = (pieces.birth == loss_step) & np.isin(pieces.storage, results)
    return int(pieces.bytes[resident | loss].sum())


def retained_bytes(graph: Graph, steps: Sequence[int]) -> int:
    """Bytes that a region retains from its forward to its backward.

    Outputs belong to the ops after the region, so they count only where the region's own backward reads them.
    """
    boundary = next(step for step, op in enumerate(steps) if graph.actions[op].outside)
    pieces = lifetimes(replace(graph, results=()), steps)
    return int(pieces.bytes[(pieces.birth < boundary) & (pieces.death > boundary)].sum())


def peak_in_flight(graph: Graph, steps: Sequence[int], forwards: int) -> int:
    """An upper bound on the peak bytes when ``forwards`` forwards run before the first backward.

    Each forward has its own inputs and loss. How much of the loss stays until the backward is unknown, so all that the loss
    allocates counts. From the second backward on, gradients exist already and each backward allocates its own before they are
    added. Receive buffers that a pipeline allocates once are not included.
    """
    peak = simulate(graph, steps).peak_bytes
    if forwards < 2:
        return peak
    each = held_bytes(graph, steps) + graph.constants.get("inputs", 0) + _loss_bytes(graph)
    return peak + (forwards - 2) * each + max(each, graph.lasting_bytes)


def _loss_bytes(graph: Graph) -> int:
    """Bytes that the caller's loss allocates beside its result; 0 where gradients arrive from another stage."""
    total = 0
    for op in graph.ops:
        if op.outside:
            temporary = {graph.values[value].storage for value in op.writes if value not in graph.results}
            total += op.workspace + sum(graph.storages[s].bytes for s in temporary)
    return total
