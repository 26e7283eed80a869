"""The memory curves of either kind of schedule, which every viewer's format is written from."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.reports.region_summary import summarize_regions
from remat_planner.planner.reports.timeline import MemoryCurve, memory_curve
from remat_planner.schedules import RegionSchedule, Schedule


def titled_curves(schedule: Schedule | RegionSchedule) -> Mapping[str, MemoryCurve]:
    """The curve of a whole model, titled ""; or one for the regions that share a schedule, titled by their names."""
    if isinstance(schedule, Schedule):
        return {"": memory_curve(schedule)}
    summary = summarize_regions(schedule)
    return {merged_names(group.regions): curve for group, curve in zip(summary.regions, summary.curves, strict=True)}
