"""The terminal report fits its terminal: width, colors, encoding, and names that are not what they seem."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Literal

import pytest
from rich.console import Console

from remat_planner.planner.formatting import format_percent
from remat_planner.planner.reports.activations import saved_activations
from remat_planner.planner.reports.policy_comparison import PolicyCost
from remat_planner.planner.reports.terminal import plan_report, usage_hint
from remat_planner.planner.reports.terminal_whole import pinned_report
from remat_planner.planner.reports.whole_summary import summarize
from remat_planner.schedules import Graph, Schedule
from tests.planner.layered_step import layered_schedule

_POLICIES = [PolicyCost("none", 29_000, 0.0, False), PolicyCost("every-n", 20_000, 0.25, True)]


def rendered(width: int, *, encoding: str = "utf-8", color: bool = False, scatter: float = 0.0) -> str:
    """The whole report of a schedule as it comes out of a terminal of that width."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=width, force_terminal=color, color_system="standard" if color else None, highlight=False)
    schedule = layered_schedule(12, recomputed=7)
    schedule = replace(schedule, origin=replace(schedule.origin, scatter=scatter))
    summary = summarize(schedule, comparison=_POLICIES, path="net.schedule.json")
    console.print(plan_report(summary, understood="24.00 kB (23.44 KiB)"))
    console.print(pinned_report(summary))
    console.print(usage_hint(summary))
    return raw.getvalue().decode(encoding)


def test_a_graph_without_a_backward_saves_nothing() -> None:
    graph = Graph.from_dag([1, 1], [5, 6], [(0, 1)])
    schedule = Schedule(graph, (0, 1), budget=100, solver="", status="optimal", bound_seconds=2.0)
    assert saved_activations([(schedule, [""])]) == []
    Console(file=io.StringIO()).print(plan_report(summarize(schedule), understood=""))


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


def test_times_that_scatter_are_told() -> None:
    assert "scatter" not in rendered(100, scatter=0.05)
    assert "Times" in rendered(100, scatter=0.34)
    assert "34.0 %" in rendered(100, scatter=0.34)


def test_without_color_there_are_no_escapes() -> None:
    assert "\x1b" not in rendered(100)
    assert "\x1b" in rendered(100, color=True)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = rendered(100, encoding="ascii")
    assert "x7  recomputed" in text
    assert "####" in text


@pytest.mark.parametrize(("status", "says"), [("feasible", True), ("optimal", False)])
def test_memory_left_unused_while_it_recomputes_is_said(status: Literal["feasible", "optimal"], says: bool) -> None:
    schedule = layered_schedule(12, recomputed=7)
    schedule = replace(schedule, budget=int(1.1 * schedule.peak_bytes), status=status)
    file = io.StringIO()
    Console(file=file, width=120).print(plan_report(summarize(schedule), understood=""))
    assert ("9.09 % of the budget, while it recomputes" in file.getvalue()) == says
