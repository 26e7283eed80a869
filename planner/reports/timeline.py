"""Live bytes over one training step, and their drawing in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remat_planner.planner.reports.peak_memory import Bytes, memory_over_step
from remat_planner.schedules import Graph, Schedule, Simulation, Traffic, Transfer


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
        graph: what they execute; without a plan, as the framework does (``Graph.eager``).
        ops: what each executes, as an index into the graph's ``actions``.
        again: whether it recomputes what an op computed before.
        seconds: float64[steps], time that each takes on the compute queue, stalls included; 0 for a store or load.
        bytes: int64[steps], live bytes while each runs.
        traffic: what the transfers do; None where there are none.
    """

    graph: Graph
    ops: Sequence[int]
    again: Sequence[bool]
    seconds: NDArray[np.float64]
    bytes: Bytes
    traffic: Traffic | None = None

    @property
    def kinds(self) -> dict[str, Bytes]:
        """int64[steps] for each kind of memory, without the constants."""
        return memory_over_step(self.graph, self.ops)

    @property
    def duration(self) -> float:
        """Seconds of all of them; their number, where none takes time."""
        return float(self.seconds.sum()) or float(len(self.ops))


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
        unplanned=_executions(graph.eager, range(len(graph.ops)), schedule.baseline),
        budget=schedule.budget,
        backward=next((step for step, op in enumerate(steps) if graph.actions[op].phase == "backward"), len(steps)),
    )


def memory_timeline(curve: MemoryCurve, width: int) -> Timeline:
    """Cut ``curve`` into ``width`` spans."""
    return Timeline(
        planned=_highest_bytes(curve.planned, width),
        unplanned=_highest_bytes(curve.unplanned, width),
        budget=curve.budget,
        turn=turn_span(curve, width),
    )


def turn_span(curve: MemoryCurve, width: int) -> int:
    """The span in which the backward begins; ``width`` where there is none."""
    spans = _spans(curve.planned.seconds, width)
    return int(spans[curve.backward]) if curve.backward < len(spans) else width


def highest_executions(executions: Executions, width: int) -> Bytes:
    """int64[width]: in each of ``width`` equal spans of time, the execution with the highest live bytes.

    A long execution is that of every span that it fills. Without executions, the array is empty.
    """
    ends = _spans(executions.seconds, width)
    if not len(ends):
        return ends
    spans = np.arange(width)
    first, past = np.searchsorted(ends, spans), np.searchsorted(ends, spans, side="right")
    live = executions.bytes
    return np.array([a + int(np.argmax(live[a : max(b, a + 1)])) for a, b in zip(first.tolist(), past.tolist(), strict=True)])


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


def draw_link(spans: Sequence[tuple[float, float]], seconds: float, width: int, glyphs: Glyphs) -> str:
    """One row: for each span of the step's time, the share of it in which a link copies; ``spans`` are its copies."""
    edges = np.linspace(0.0, seconds, width + 1)
    busy = np.zeros(width)
    for begin, end in spans:
        busy += np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0.0, None)
    parts = len(glyphs.eighths)
    levels = np.ceil(busy / max(seconds / width, 1e-300) * parts - 1e-9).astype(np.int64).clip(0, parts)
    return "".join(glyphs.eighths[level - 1] if level else " " for level in levels.tolist())


def top_bytes(timeline: Timeline) -> int:
    """Bytes at the top of the drawing."""
    return int(max(timeline.planned.max(initial=0), timeline.unplanned.max(initial=0)))


def budget_line(timeline: Timeline, height: int) -> int | None:
    """The row of the budget, counted from below; None where the budget is above the drawing."""
    top = top_bytes(timeline)
    if not top or timeline.budget > top:
        return None
    return min(height - 1, int(timeline.budget / top * height))


def _executions(graph: Graph, steps: Sequence[int], simulation: Simulation) -> Executions:
    first: dict[int, int] = {}
    again = [i < len(graph.ops) and first.setdefault(i, step) != step for step, i in enumerate(steps)]
    return Executions(graph, steps, again, _seconds(graph, steps, simulation), simulation.bytes, simulation.traffic)


def _seconds(graph: Graph, steps: Sequence[int], simulation: Simulation) -> NDArray[np.float64]:
    if simulation.traffic is None:
        return np.array([graph.ops[i].seconds for i in steps], dtype=np.float64)
    on_a_channel = [isinstance(action := graph.actions[i], Transfer) and action.channel is not None for i in steps]
    complete = np.maximum.accumulate(np.where(on_a_channel, 0.0, simulation.traffic.timing.end))
    return np.diff(complete, prepend=0.0)


def _spans(seconds: NDArray[np.float64], width: int) -> Bytes:
    """int64[steps]: the span in which each execution ends."""
    ends = np.cumsum(seconds if seconds.any() else np.ones(len(seconds)))
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    return np.clip(np.ceil(ends / ends[-1] * width).astype(np.int64) - 1, 0, width - 1)


def _highest_bytes(executions: Executions, width: int) -> Bytes:
    highest = highest_executions(executions, width)
    return executions.bytes[highest] if len(highest) else np.zeros(width, dtype=np.int64)
