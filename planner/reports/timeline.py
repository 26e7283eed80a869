"""Live bytes over one training step, drawn in text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remat_planner.schedules import Graph, Schedule, Simulation, Transfer

Bytes = NDArray[np.int64]


@dataclass(frozen=True)
class MemoryCurve:
    """Live bytes of every op execution of a schedule, and of the step without recomputation.

    Attributes:
        planned, unplanned: the two sequences of executions.
        budget: bytes.
        backward: number of executions before the backward of the schedule begins; all of them where it has none.
    """

    planned: Executions
    unplanned: Executions
    budget: int
    backward: int


@dataclass(frozen=True)
class Executions:
    """Op executions and transfers in their order.

    Attributes:
        seconds: float64[steps], time that each takes on the compute queue, stalls included; 0 for a store or load.
        bytes: int64[steps], live bytes while each runs.
    """

    seconds: NDArray[np.float64]
    bytes: Bytes


@dataclass(frozen=True)
class Timeline:
    """The step cut into equal spans of time (of executions, where nothing takes time).

    Attributes:
        planned: int64[width], highest live bytes of the schedule in each span.
        unplanned: int64[width], the same without recomputation.
        budget: bytes.
        turn: the span in which the backward begins.
    """

    planned: Bytes
    unplanned: Bytes
    budget: int
    turn: int


@dataclass(frozen=True)
class Glyphs:
    """The characters that a timeline is drawn with."""

    eighths: str
    unplanned: str
    budget: str
    axis: str
    turn: str


UNICODE = Glyphs(eighths="▁▂▃▄▅▆▇█", unplanned="·", budget="─", axis="─", turn="┬")
ASCII = Glyphs(eighths="#", unplanned=".", budget="-", axis="-", turn="+")


def memory_curve(schedule: Schedule) -> MemoryCurve:
    """The live bytes of ``schedule``."""
    graph, steps = schedule.graph, schedule.steps
    return MemoryCurve(
        planned=_executions(graph, steps, schedule.simulation),
        unplanned=_executions(graph, range(len(graph.ops)), schedule.baseline),
        budget=schedule.budget,
        backward=next((step for step, op in enumerate(steps) if graph.actions[op].phase == "backward"), len(steps)),
    )


def memory_timeline(curve: MemoryCurve, width: int) -> Timeline:
    """Cut ``curve`` into ``width`` spans."""
    spans = _spans(curve.planned.seconds, width)
    return Timeline(
        planned=_highest(curve.planned.bytes, spans, width),
        unplanned=_highest(curve.unplanned.bytes, _spans(curve.unplanned.seconds, width), width),
        budget=curve.budget,
        turn=int(spans[curve.backward]) if curve.backward < len(spans) else width,
    )


def draw_timeline(timeline: Timeline, height: int, glyphs: Glyphs) -> list[str]:
    """``height`` rows without labels, the highest first: filled up to the schedule's bytes, dotted up to those of the step
    without recomputation, with a line at the budget.
    """
    top = top_bytes(timeline)
    parts = len(glyphs.eighths)
    levels = np.rint(timeline.planned / top * height * parts).astype(np.int64) if top else np.zeros_like(timeline.planned)
    dotted = np.rint(timeline.unplanned / top * height).astype(np.int64) if top else np.zeros_like(timeline.unplanned)
    budget_row = budget_line(timeline, height)
    rows = []
    for row in range(height - 1, -1, -1):
        characters = []
        for level, dots in zip(levels.tolist(), dotted.tolist(), strict=True):
            filled = min(parts, level - row * parts)
            if filled > 0:
                characters.append(glyphs.eighths[filled - 1])
            elif row == budget_row:
                characters.append(glyphs.budget)
            else:
                characters.append(glyphs.unplanned if dots > row else " ")
        rows.append("".join(characters))
    return rows


def top_bytes(timeline: Timeline) -> int:
    """Bytes at the top of the drawing."""
    return int(max(timeline.planned.max(initial=0), timeline.unplanned.max(initial=0)))


def budget_line(timeline: Timeline, height: int) -> int | None:
    """The row of the budget, counted from below; None where the budget is above the drawing."""
    top = top_bytes(timeline)
    if not top or timeline.budget > top:
        return None
    return min(height - 1, int(timeline.budget / top * height))


def _executions(graph: Graph, steps: tuple[int, ...] | range, simulation: Simulation) -> Executions:
    if simulation.traffic is None:
        return Executions(np.array([graph.ops[op].seconds for op in steps], dtype=np.float64), simulation.bytes)
    on_a_channel = [isinstance(action := graph.actions[i], Transfer) and action.channel is not None for i in steps]
    complete = np.maximum.accumulate(np.where(on_a_channel, 0.0, simulation.traffic.timing.end))
    return Executions(np.diff(complete, prepend=0.0), simulation.bytes)


def _spans(seconds: NDArray[np.float64], width: int) -> Bytes:
    """int64[steps]: the span in which each execution ends."""
    ends = np.cumsum(seconds if seconds.any() else np.ones(len(seconds)))
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    return np.clip(np.ceil(ends / ends[-1] * width).astype(np.int64) - 1, 0, width - 1)


def _highest(live: Bytes, spans: Bytes, width: int) -> Bytes:
    highest = np.full(width, -1, dtype=np.int64)
    np.maximum.at(highest, spans, live)
    for span in range(width):  # a long execution ends in none of the spans that it fills: they get the bytes of its last one
        if highest[span] < 0:
            later = highest[span:][highest[span:] >= 0]
            highest[span] = later[0] if len(later) else 0
    return highest
