"""The timeline keeps the simulator's peaks, and its drawing has their shape."""

from __future__ import annotations

import numpy as np
import pytest

from remat_planner.planner.reports.explanation import explain
from remat_planner.planner.reports.terminal import one_line
from remat_planner.planner.reports.timeline import ASCII, UNICODE, Timeline, draw_timeline, memory_curve, memory_timeline
from remat_planner.planner.reports.whole_summary import summarize
from remat_planner.schedules import Channel, Graph, Pool, Schedule
from tests.planner.layered_step import layered_schedule


@pytest.mark.parametrize("width", [1, 7, 40, 500])
def test_the_timeline_keeps_the_peaks(width: int) -> None:
    schedule = layered_schedule(12, recomputed=7)
    timeline = memory_timeline(memory_curve(schedule), width)
    assert timeline.planned.max() == schedule.peak_bytes
    assert timeline.unplanned.max() == schedule.baseline_peak_bytes
    assert len(timeline.planned) == len(timeline.unplanned) == width
    assert timeline.planned.min() > 0


def test_the_timeline_of_steps_that_take_no_time() -> None:
    graph = Graph.from_dag([0, 0, 0], [5, 6, 7], [(0, 1), (0, 2)], backward=2)
    schedule = Schedule(graph, (0, 1, 2), budget=100, solver="", status="optimal", bound_seconds=0.0)
    timeline = memory_timeline(memory_curve(schedule), 3)
    assert timeline.planned.tolist() == [5, 11, 12]
    assert timeline.turn == 2
    assert "+0.00 %" in one_line(summarize(schedule))


def test_a_summary_of_a_schedule_with_copies() -> None:
    graph = Graph.from_dag([1, 1, 1, 1], [5, 6, 7, 4], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    graph = graph.with_transfers([Pool("host", 5, Channel(5.0), Channel(2.5))])
    store, release, load = graph.copy_steps(0)
    schedule = Schedule(graph, (0, store, 1, release, 2, load, 3), budget=20, solver="", status="feasible", bound_seconds=4.0)
    curve = memory_curve(schedule)
    # The last op waits two seconds for what it reads.
    assert curve.planned.seconds.tolist() == [1, 0, 1, 0, 1, 0, 3]
    assert curve.planned.bytes.tolist() == [5, 5, 11, 5 + 6, 13, 12, 16]
    assert memory_timeline(curve, 6).planned.tolist() == [5, 11, 13, 16, 16, 16]
    assert curve.backward == 4
    assert "time +50.0 %" in one_line(summarize(schedule))
    assert [one.alive for one in explain(schedule, "op0")] == [((0, 3), (5, 6))]


def test_the_drawing() -> None:
    timeline = Timeline(np.array([1, 2, 4, 3]), np.array([1, 5, 8, 8]), budget=5, turn=2)
    assert draw_timeline(timeline, 4, ASCII) == ["  ..", "----", " .##", " ###"]
    assert draw_timeline(timeline, 4, UNICODE) == ["  ··", "────", " ·█▄", "▄███"]
    above = Timeline(np.array([1, 2]), np.array([1, 2]), budget=5, turn=2)
    assert draw_timeline(above, 2, ASCII) == [" #", "##"]
