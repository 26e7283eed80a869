"""Live bytes over one training step, drawn in text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remat_planner.schedules import Graph, Schedule, Simulation

Column = NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """The step cut into equal spans of time (of steps, where nothing takes time).

    Attributes:
        planned: int64[width], highest live bytes of the schedule in each span.
        unplanned: int64[width], the same without recomputation.
        budget: bytes.
        turn: the span in which the backward begins.
    """

    planned: Column
    unplanned: Column
    budget: int
    turn: int


def memory_timeline(schedule: Schedule, width: int) -> Timeline:
    """Cut ``schedule`` into ``width`` spans."""
    graph = schedule.graph
    unplanned_steps = range(len(graph.ops))
    where = _spans(graph, schedule.steps, width)
    backward = [step for step, i in enumerate(schedule.steps) if graph.ops[i].phase == "backward"]
    return Timeline(
        planned=_highest(schedule.simulation, where, width),
        unplanned=_highest(schedule.baseline, _spans(graph, unplanned_steps, width), width),
        budget=schedule.budget,
        turn=int(where[backward[0]]) if backward else width,
    )


def _spans(graph: Graph, steps: tuple[int, ...] | range, width: int) -> Column:
    """int64[steps]: the span in which each step ends."""
    seconds = np.array([graph.ops[i].seconds for i in steps], dtype=np.float64)
    ends = np.cumsum(seconds if seconds.any() else np.ones(len(steps)))
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    return np.clip(np.ceil(ends / ends[-1] * width).astype(np.int64) - 1, 0, width - 1)


def _highest(simulation: Simulation, where: Column, width: int) -> Column:
    highest = np.full(width, -1, dtype=np.int64)
    np.maximum.at(highest, where, simulation.bytes)
    for span in range(width):  # nothing ends within a span that one long step fills: it is as high as the step that does
        if highest[span] < 0:
            later = highest[span:][highest[span:] >= 0]
            highest[span] = later[0] if len(later) else 0
    return highest


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


def draw_timeline(timeline: Timeline, height: int, glyphs: Glyphs) -> list[str]:
    """Rows of ``height`` lines, the highest first, without labels: filled where the schedule is, dotted up to where the step
    without recomputation would be, with a line at the budget."""
    top = top_bytes(timeline)
    parts = len(glyphs.eighths)
    levels = np.rint(timeline.planned / top * height * parts).astype(np.int64) if top else np.zeros_like(timeline.planned)
    ghosts = np.rint(timeline.unplanned / top * height).astype(np.int64) if top else np.zeros_like(timeline.unplanned)
    budget_row = budget_line(timeline, height)
    rows = []
    for row in range(height - 1, -1, -1):
        characters = []
        for level, ghost in zip(levels.tolist(), ghosts.tolist(), strict=True):
            filled = min(parts, level - row * parts)
            if filled > 0:
                characters.append(glyphs.eighths[filled - 1])
            elif row == budget_row:
                characters.append(glyphs.budget)
            else:
                characters.append(glyphs.unplanned if ghost > row else " ")
        rows.append("".join(characters))
    return rows


def top_bytes(timeline: Timeline) -> int:
    """Bytes at the top of the drawing."""
    return int(max(timeline.planned.max(initial=0), timeline.unplanned.max(initial=0)))


def budget_line(timeline: Timeline, height: int) -> int | None:
    """The row, counted from below, in which the budget lies; None where it is above the drawing."""
    top = top_bytes(timeline)
    if not top or timeline.budget > top:
        return None
    return min(height - 1, int(timeline.budget / top * height))
