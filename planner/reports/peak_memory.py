"""The kinds of memory that a schedule's peak consists of."""

from __future__ import annotations

import numpy as np

from remat_planner.schedules import Graph, Schedule, lifetimes

GRADIENTS = "gradients"
OUTPUTS = "outputs"
ACTIVATIONS = "activations"
BACKWARD = "backward temporaries"
WORKSPACE = "kernel workspace"
RANDOM_STATE = "random state"
UPDATE = "optimizer's step"


def memory_at_peak(schedule: Schedule) -> dict[str, int]:
    """Bytes of each kind of memory at the peak; they add up to ``schedule.peak_bytes``.

    The graph's constants keep their names. *gradients* are results of backward ops that outlive the step, *outputs* results of
    forward ops that do, *activations* other results of forward ops, *backward temporaries* other results of backward ops. Where
    the optimizer's step sets the peak, *optimizer's step* is what it allocates.
    """
    graph, steps, peak = schedule.graph, schedule.steps, schedule.simulation.peak_step
    shares = {name: size for name, size in graph.constants.items() if size}
    shares |= dict.fromkeys((GRADIENTS, OUTPUTS, ACTIVATIONS, BACKWARD, WORKSPACE, RANDOM_STATE), 0)
    if peak_is_update(schedule):
        kinds = storage_kinds(graph)
        for storage in {graph.values[value].storage for value in graph.results}:
            shares[kinds[storage]] += graph.storages[storage].bytes
        shares[UPDATE] = graph.update
    elif steps:
        kinds = storage_kinds(graph)
        pieces = lifetimes(graph, steps)
        for piece in np.flatnonzero((pieces.birth <= peak) & (peak <= pieces.death)):
            storage = int(pieces.storage[piece])
            shares[RANDOM_STATE if storage < 0 else kinds[storage]] += int(pieces.bytes[piece])
        shares[WORKSPACE] = graph.actions[steps[peak]].workspace
    return {name: size for name, size in shares.items() if size}


def peak_is_update(schedule: Schedule) -> bool:
    """Whether the optimizer's step takes more than the highest moment of forward and backward."""
    return schedule.peak_bytes > int(schedule.simulation.bytes.max(initial=0))


def storage_kinds(graph: Graph) -> dict[int, str]:
    """The kind of every storage that an op allocates, by storage index."""
    results = {graph.values[value].storage for value in graph.results}
    kinds: dict[int, str] = {}
    for op, allocated in zip(graph.ops, graph.allocated, strict=True):
        for storage in allocated:
            if storage in results:
                kinds[storage] = GRADIENTS if op.phase == "backward" else OUTPUTS
            else:
                kinds[storage] = BACKWARD if op.phase == "backward" else ACTIVATIONS
    return kinds
