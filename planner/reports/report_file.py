"""A report as a file, in one of the forms that ``plan report`` writes."""

from __future__ import annotations

import os
from typing import Literal

from remat_planner.planner.formatting import format_bytes_both
from remat_planner.planner.reports.budget_neighbours import neighbours
from remat_planner.planner.reports.curve.data import CurveData
from remat_planner.planner.reports.page.content import page_of
from remat_planner.planner.reports.page.html import page_html
from remat_planner.planner.reports.policy_comparison import compare
from remat_planner.planner.reports.region_summary import RegionSummary, summarize_regions
from remat_planner.planner.reports.viewers.csv_table import csv_table
from remat_planner.planner.reports.viewers.curves import titled_curves
from remat_planner.planner.reports.viewers.memory_snapshot import memory_snapshot
from remat_planner.planner.reports.viewers.perfetto import perfetto_trace
from remat_planner.planner.reports.whole_summary import WholeSummary, summarize
from remat_planner.schedules import RegionSchedule, Schedule, write_atomically

ViewerName = Literal["perfetto", "memory-viz", "csv"]
ReportName = Literal["html", ViewerName]
ENDINGS: dict[ReportName, str] = {"html": ".html", "perfetto": ".trace.json", "memory-viz": ".pickle", "csv": ".csv"}
"""How the names of files in each form end."""


def report(
    schedule: Schedule | RegionSchedule,
    path: str | os.PathLike[str],
    *,
    to: ReportName = "html",
    schedule_file: str | None = None,
    curve: CurveData | None = None,
) -> None:
    """Write a report on ``schedule``; the file appears whole or not at all.

    Args:
        schedule: of a whole model or by regions.
        path: the file to write.
        to: "html" is a page of its own that loads nothing else, with memory over the step, what is allocated at the peak, the
            activations and how the schedule compares: solving for that takes up to 35 seconds. "perfetto" is a trace for
            ui.perfetto.dev, "memory-viz" a snapshot for pytorch.org/memory_viz, "csv" a line for each op execution.
        schedule_file: the file that the schedule is in; the page then says how to train with it.
        curve: what ``remat_planner.curve`` returned for the model; the page then draws it.

    Raises:
        OSError: the file cannot be written.
    """
    content = _encoded(_page(schedule, schedule_file, curve)) if to == "html" else viewer_file(schedule, to)
    write_atomically(path, content)


def _page(schedule: Schedule | RegionSchedule, schedule_file: str | None, curve: CurveData | None) -> str:
    summary: WholeSummary | RegionSummary
    if isinstance(schedule, RegionSchedule):
        summary = summarize_regions(schedule, path=schedule_file)
    else:
        summary = summarize(schedule, comparison=compare(schedule), neighbours=neighbours(schedule), path=schedule_file)
    return page_html(page_of(summary, format_bytes_both(summary.budget_bytes), curve))


def viewer_file(schedule: Schedule | RegionSchedule, to: ViewerName) -> bytes:
    """The schedule in a viewer's format."""
    curves = titled_curves(schedule)
    match to:
        case "perfetto":
            return _encoded(perfetto_trace(curves))
        case "memory-viz":
            return memory_snapshot(curves)
        case "csv":
            return _encoded(csv_table(curves))


def _encoded(text: str) -> bytes:
    """``text`` in UTF-8; halves of surrogate pairs, which a name in a file may have, become escapes."""
    return text.encode("utf-8", errors="backslashreplace")
