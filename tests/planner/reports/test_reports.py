"""Reports say what the simulator says: shares add up, decisions are those of the steps, drawings have the bytes' shape."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from remat_planner.planner.formatting import format_percent
from remat_planner.planner.reports.activations import saved_activations
from remat_planner.planner.reports.json_document import plan_document
from remat_planner.planner.reports.peak_memory import memory_at_peak
from remat_planner.planner.reports.policy_comparison import Row, compare
from remat_planner.planner.reports.terminal import one_line, pinned_report, plan_report, usage_hint
from remat_planner.planner.reports.timeline import ASCII, UNICODE, Timeline, draw_timeline, memory_timeline
from remat_planner.schedules import Graph, Schedule
from tests.planner.layered_step import layered_schedule
from tests.strategies import graphs, schedules

_ROWS = [Row("none", 29_000, 0.0, False), Row("every-n", 20_000, 0.25, True)]


def rendered(width: int, *, encoding: str = "utf-8", color: bool = False) -> str:
    """The whole report of a schedule as it comes out of a terminal of that width."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=width, force_terminal=color, color_system="standard" if color else None, highlight=False)
    schedule = layered_schedule(12, recomputed=7)
    console.print(plan_report(schedule, _ROWS, understood="24.00 kB (23.44 KiB)"))
    console.print(pinned_report(schedule))
    console.print(usage_hint(schedule, "net.schedule.json"))
    return raw.getvalue().decode(encoding)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_memory_adds_up_to_the_peak(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    steps = tuple(data.draw(schedules(graph)))
    schedule = Schedule(graph, steps, budget=1, solver="", status="feasible", bound_seconds=0.0)
    assert sum(memory_at_peak(schedule).values()) == schedule.peak_bytes


def test_memory_by_hand() -> None:
    schedule = layered_schedule(1, recomputed=0)
    # The gradient of the weight is made from 4 units of activation and 1 of gradient, into 2 units that stay.
    assert memory_at_peak(schedule) == {
        "parameters": 4000,
        "gradients": 2000,
        "activations": 4000,
        "backward temporaries": 1000,
        "kernel workspace": 1500,
    }


def test_decisions_and_merged_layers() -> None:
    wide, kept, narrow = saved_activations(layered_schedule(12, recomputed=7))
    assert (wide.module, wide.decision, wide.times, wide.count, wide.bytes) == ("layers.0-6.mlp", "recomputed", 1, 7, 28_000)
    assert (kept.module, kept.decision, kept.times, kept.count, kept.bytes) == ("layers.7-11.mlp", "kept", 0, 5, 20_000)
    assert (narrow.module, narrow.decision, narrow.count, narrow.bytes) == ("layers.0-11", "kept", 12, 12_000)
    assert (wide.kind, wide.source, wide.shape, wide.dtype) == (
        "aten.gelu.default",
        "/somewhere/model.py:7",
        (4, 250),
        "float32",
    )


def test_what_runs_once_but_late_is_not_called_kept() -> None:
    # 0 is forward work that only the backward (3) needs; this schedule runs it only then.
    plain = Graph.from_dag([1, 1, 1, 1], [5, 6, 7, 8], [(1, 2), (0, 3), (1, 3), (2, 3)], backward=3)
    late = Schedule(plain, (1, 2, 3 - 3, 3), budget=100, solver="", status="feasible", bound_seconds=0.0)
    assert [group.decision for group in saved_activations(late)] == ["kept"] * 3  # it runs before the backward begins
    twice = Graph.from_dag([1] * 5, [5, 6, 7, 8, 9], [(1, 2), (2, 3), (0, 4), (3, 4)], backward=3)
    later = Schedule(twice, (1, 2, 3, 0, 4), budget=100, solver="", status="feasible", bound_seconds=0.0)
    assert {group.bytes: group.decision for group in saved_activations(later)} == {5: "deferred", 7: "kept"}


def test_a_graph_without_a_backward_saves_nothing() -> None:
    graph = Graph.from_dag([1, 1], [5, 6], [(0, 1)])
    schedule = Schedule(graph, (0, 1), budget=100, solver="", status="optimal", bound_seconds=2.0)
    assert saved_activations(schedule) == []
    Console(file=io.StringIO()).print(plan_report(schedule, [], understood=""))


@pytest.mark.parametrize("width", [1, 7, 40, 500])
def test_the_timeline_keeps_the_peaks(width: int) -> None:
    schedule = layered_schedule(12, recomputed=7)
    timeline = memory_timeline(schedule, width)
    assert timeline.planned.max() == schedule.peak_bytes
    assert timeline.unplanned.max() == schedule.baseline_peak_bytes
    assert len(timeline.planned) == len(timeline.unplanned) == width
    assert timeline.planned.min() > 0


def test_the_timeline_of_steps_that_take_no_time() -> None:
    graph = Graph.from_dag([0, 0, 0], [5, 6, 7], [(0, 1), (0, 2)], backward=2)
    schedule = Schedule(graph, (0, 1, 2), budget=100, solver="", status="optimal", bound_seconds=0.0)
    timeline = memory_timeline(schedule, 3)
    assert timeline.planned.tolist() == [5, 11, 12]
    assert timeline.turn == 2
    assert "+0.00 %" in one_line(schedule)


def test_the_drawing() -> None:
    timeline = Timeline(np.array([1, 2, 4, 3]), np.array([1, 5, 8, 8]), budget=5, turn=2)
    assert draw_timeline(timeline, 4, ASCII) == ["  ..", "----", " .##", " ###"]
    assert draw_timeline(timeline, 4, UNICODE) == ["  ··", "────", " ·█▄", "▄███"]
    above = Timeline(np.array([1, 2]), np.array([1, 2]), budget=5, turn=2)
    assert draw_timeline(above, 2, ASCII) == [" #", "##"]


@pytest.mark.parametrize("width", [72, 80, 120, 200])
def test_the_report_fits_the_terminal(width: int) -> None:
    schedule = layered_schedule(12, recomputed=7)
    text = rendered(width)
    assert max(map(len, text.splitlines())) <= width
    for needed in (
        "24.00 kB (23.44 KiB)",
        format_percent(1 - schedule.peak_bytes / schedule.baseline_peak_bytes),
        "+28.9 %",
        "+2.00 %",
        "recomputed",
        "\N{MULTIPLICATION SIGN}7",
        "layers.0-6",
        "budget",
        "net.schedule.json",
    ):
        assert needed in text
    assert ("float32[4, 250]" in text) == (width >= 100)


def test_without_color_there_are_no_escapes() -> None:
    assert "\x1b" not in rendered(100)
    assert "\x1b" in rendered(100, color=True)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = rendered(100, encoding="ascii")
    assert "x7  recomputed" in text
    assert "####" in text


def test_the_document_is_json_and_says_the_same() -> None:
    schedule = layered_schedule(12, recomputed=7)
    document = json.loads(json.dumps(plan_document(schedule, comparison=_ROWS, path="net.schedule.json")))
    assert document["peak_bytes"] == schedule.peak_bytes == sum(document["memory_at_peak"].values())
    assert document["overhead"] == pytest.approx(schedule.seconds / schedule.baseline_seconds - 1)
    assert document["comparison"][1] == {"solver": "every-n", "peak_bytes": 20_000, "overhead": 0.25, "fits": True}
    assert document["pinned"] == {"loss.backward": "it is the loss"}
    assert document["verification"] is None


def test_the_comparison_is_at_the_schedules_budget() -> None:
    schedule = layered_schedule(12, recomputed=7)
    rows = {row.solver: row for row in compare(schedule)}
    assert rows["none"] == Row("none", schedule.baseline_peak_bytes, 0.0, fits=False)
    assert all(row.fits == (row.peak_bytes <= schedule.budget) for row in rows.values())
