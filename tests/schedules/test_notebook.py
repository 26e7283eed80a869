"""What a notebook shows of a schedule: its figures, and names that are no markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from remat_planner.schedules import Graph, Origin, RegionSchedule, Schedule

_REGIONS = Path(__file__).resolve().parents[1] / "data" / "region_schedule_format_1.json"


def test_a_schedule_in_a_notebook() -> None:
    graph = Graph.from_dag([1] * 4, [600, 600, 600, 600], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    schedule = Schedule(graph, (0, 1, 2, 0, 3), 1800, "<i>", "feasible", 4.4, origin=Origin(model="<b>Net</b>"))
    html = schedule._repr_html_()
    assert "&lt;b&gt;Net&lt;/b&gt;" in html
    assert "feasible by &lt;i&gt;" in html
    assert f"{schedule.peak_bytes:,} bytes" in html
    assert "+25.00% a step; none takes less than +10.00%" in html


def test_a_schedule_by_regions_in_a_notebook() -> None:
    schedule = RegionSchedule.load(_REGIONS)
    html = replace(schedule, origin=Origin(model="<b>"))._repr_html_()
    assert "by regions of &lt;b&gt;" in html
    assert f"{schedule.peak_bytes:,} bytes, 30.4% below" in html
