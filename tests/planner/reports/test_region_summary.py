"""The summary of a schedule by regions: what the regions retain, and which of them are shown together."""

from __future__ import annotations

from pathlib import Path

from remat_planner.planner.regions.options import RegionGraph
from remat_planner.planner.reports.region_summary import summarize_regions
from remat_planner.schedules import RegionSchedule

_FILE = Path(__file__).resolve().parents[2] / "data" / "region_schedule_format_1.json"


def test_a_region_retains_what_its_planner_counts() -> None:
    schedule = RegionSchedule.load(_FILE)
    groups = summarize_regions(schedule).regions
    assert [name for group in groups for name in group.regions] == list(schedule.regions)
    for group in groups:
        region = schedule.regions[group.regions[0]]
        part = RegionGraph.of(region.graph)
        assert group.held_bytes == part.option(region.steps).held
        assert group.baseline_held_bytes == part.option(tuple(range(len(region.graph.ops)))).held
    assert any(group.held_bytes < group.baseline_held_bytes for group in groups)


def test_regions_with_one_schedule_are_shown_together() -> None:
    schedule = RegionSchedule.load(_FILE)
    region = next(iter(schedule.regions.values()))
    twice = RegionSchedule({"a": region, "b": region}, {"a": 1, "b": 2}, schedule.budget, 1, 2)
    (group,) = summarize_regions(twice).regions
    assert (group.regions, group.calls) == (("a", "b"), 3)
