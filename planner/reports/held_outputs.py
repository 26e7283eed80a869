"""What it costs that the training loop holds the model's outputs until its step ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

from remat_planner.planner.reports.peak_memory import OUTPUTS, storage_kinds
from remat_planner.schedules import Schedule, simulate


@dataclass(frozen=True)
class HeldOutputs:
    """The outputs of a step: a variable of the loop (``logits = model(x)``) keeps them through the backward.

    Attributes:
        bytes: of the outputs that the loop holds.
        dropped_peak_bytes: peak of the same schedule for a loop that drops them before its backward, as
            ``criterion(model(x), y).backward()`` does; ``TrainingState(outputs="dropped")`` plans for such a loop.
    """

    bytes: int
    dropped_peak_bytes: int


def held_outputs(schedule: Schedule) -> HeldOutputs | None:
    """What holding the outputs costs; None where the peak would be the same without it."""
    graph = schedule.graph
    kinds = storage_kinds(graph)
    outputs = {s for s, kind in kinds.items() if kind == OUTPUTS}
    if not outputs or not schedule.steps:
        return None
    dropped = replace(graph, results=tuple(v for v in graph.results if graph.values[v].storage not in outputs))
    simulation = simulate(dropped, schedule.steps)
    if simulation.peak_bytes >= schedule.peak_bytes:
        return None
    return HeldOutputs(sum(graph.storages[storage].bytes for storage in outputs), simulation.peak_bytes)
