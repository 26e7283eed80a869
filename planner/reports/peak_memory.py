"""Where memory goes at the peak of a schedule."""

from __future__ import annotations

import numpy as np

from remat_planner.planner.training_state import ACCUMULATED
from remat_planner.schedules import Graph, Schedule, lifetimes

GRADIENTS = "gradients"
OUTPUTS = "outputs"
ACTIVATIONS = "activations"
BACKWARD = "backward temporaries"
WORKSPACE = "kernel workspace"
RANDOM_STATE = "random state"
UPDATE = "optimizer's step"


def memory_at_peak(schedule: Schedule) -> dict[str, int]:
    """Bytes of each kind of memory at the step that sets the peak; they add up to ``schedule.peak_bytes``.

    Where the optimizer's step after the backward sets it, *optimizer's step* are its intermediates.

    The graph's constants keep their names. Of the rest: *gradients* are those that outlive the step, *outputs* what the caller
    holds of the forward, *activations* other results of forward ops, *backward temporaries* other results of backward ops.
    """
    graph, steps, peak = schedule.graph, schedule.steps, schedule.simulation.peak_step
    shares = {name: size for name, size in graph.constants.items() if size}
    shares |= dict.fromkeys((GRADIENTS, OUTPUTS, ACTIVATIONS, BACKWARD, WORKSPACE, RANDOM_STATE), 0)
    if peak_is_update(schedule):
        kinds = _storage_kinds(graph)
        for storage in {graph.values[value].storage for value in graph.results}:
            shares[kinds[storage]] += graph.storages[storage].bytes
        shares[UPDATE] = graph.update
    elif steps:
        kinds = _storage_kinds(graph)
        pieces = lifetimes(graph, steps)
        for piece in np.flatnonzero((pieces.birth <= peak) & (peak <= pieces.death)):
            storage = int(pieces.storage[piece])
            shares[RANDOM_STATE if storage < 0 else kinds[storage]] += int(pieces.bytes[piece])
        shares[WORKSPACE] = graph.ops[steps[peak]].workspace
    return {name: size for name, size in shares.items() if size}


def gradient_bytes(graph: Graph) -> int:
    """Bytes of the gradients that are kept when the backward is over."""
    lasting = {graph.values[value].storage for value in graph.results}
    kinds = _storage_kinds(graph)
    own = sum(graph.storages[storage].bytes for storage in lasting if kinds.get(storage) == GRADIENTS)
    return own + graph.constants.get(ACCUMULATED, 0)


def peak_is_update(schedule: Schedule) -> bool:
    """Whether the optimizer's step takes more than the highest moment of forward and backward."""
    return schedule.peak_bytes > int(schedule.simulation.bytes.max(initial=0))


def _storage_kinds(graph: Graph) -> dict[int, str]:
    """The kind of every storage that an op allocates."""
    lasting = {graph.values[value].storage for value in graph.results}
    kinds: dict[int, str] = {}
    for op, allocated in zip(graph.ops, graph.allocated, strict=True):
        for storage in allocated:
            if storage in lasting:
                kinds[storage] = GRADIENTS if op.phase == "backward" else OUTPUTS
            else:
                kinds[storage] = BACKWARD if op.phase == "backward" else ACTIVATIONS
    return kinds
