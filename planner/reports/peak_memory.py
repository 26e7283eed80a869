"""The kinds of memory that a step takes, at the peak and over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from remat_planner.schedules import Graph, Schedule, Simulation, lifetimes, live_bytes

Bytes = NDArray[np.int64]

GRADIENTS = "gradients"
OUTPUTS = "outputs"
ACTIVATIONS = "activations"
BACKWARD = "backward temporaries"
WORKSPACE = "kernel workspace"
RANDOM_STATE = "random state"
UPDATE = "optimizer's step"


def memory_at_peak(schedule: Schedule) -> dict[str, int]:
    """Bytes of each kind of memory at the peak; they add up to ``schedule.peak_bytes``.

    The kinds are those of ``memory_over_step``. Where the optimizer's step sets the peak, *optimizer's step* is what it
    allocates.
    """
    graph, simulation = schedule.graph, schedule.simulation
    shares: dict[str, int] = {name: size for name, size in graph.constants.items() if size}
    if peak_is_update(simulation):
        kinds = storage_kinds(graph)
        shares |= dict.fromkeys((GRADIENTS, OUTPUTS), 0)
        for storage in {graph.values[value].storage for value in graph.results}:
            shares[kinds[storage]] += graph.storages[storage].bytes
        shares[UPDATE] = graph.update
    elif schedule.steps:
        over_step = memory_over_step(graph, schedule.steps)
        shares |= {kind: int(live[simulation.peak_step]) for kind, live in over_step.items()}
    return {name: size for name, size in shares.items() if size}


def memory_over_step(graph: Graph, steps: Sequence[int]) -> dict[str, Bytes]:
    """int64[steps] for each kind of memory on the device but the constants: its bytes while each of ``steps`` runs.

    *gradients* are results of backward ops that outlive the step, *outputs* results of forward ops that do, *activations* other
    results of forward ops, *backward temporaries* other results of backward ops.
    """
    kind_of = storage_kinds(graph) | {-1: RANDOM_STATE}
    pieces = lifetimes(graph, steps)
    kinds = np.array([kind_of[storage] for storage in pieces.storage.tolist()])
    live = {}
    for kind in (GRADIENTS, OUTPUTS, ACTIVATIONS, BACKWARD, RANDOM_STATE):
        of_kind = kinds == kind
        live[kind] = live_bytes(pieces.birth[of_kind], pieces.death[of_kind], pieces.bytes[of_kind], len(steps))
    live[WORKSPACE] = np.array([graph.actions[i].workspace for i in steps], dtype=np.int64)
    return live


def peak_is_update(simulation: Simulation) -> bool:
    """Whether the optimizer's step takes more than the highest moment of forward and backward."""
    return simulation.peak_bytes > int(simulation.bytes.max(initial=0))


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
