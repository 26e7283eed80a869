"""``plan report``: a schedule as a page, or in the format of a viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remat_planner.planner.cli.checks import check_writable
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.options import ScheduleFile, loaded_schedule
from remat_planner.planner.cli.outcome import outcome
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.reports import ENDINGS, ReportName, report

_OPENS_IN = {
    "html": "any browser",
    "perfetto": "https://ui.perfetto.dev or chrome://tracing",
    "memory-viz": "https://pytorch.org/memory_viz",
    "csv": "any spreadsheet",
}


def report_command(
    schedule: ScheduleFile,
    to: Annotated[
        ReportName,
        typer.Option("--to", help="a page for a browser, a trace, a memory snapshot, or a line for each op execution"),
    ] = "html",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="the file to write; by default named like the schedule"),
    ] = None,
) -> None:
    """Write a report on a schedule file as one page, or for Perfetto, pytorch.org/memory_viz or a spreadsheet."""
    with outcome(as_json=False) as result:
        planned = loaded_schedule(schedule)
        target = output or schedule.with_name(schedule.name.removesuffix(".json").removesuffix(".schedule") + ENDINGS[to])
        check_writable(target)
        with Stages(quiet=False) as stages:
            stages.stage("Writing the report")
            interruptibly(lambda: report(planned, target, to=to, schedule_file=str(schedule)))
        result.print(f"{target} opens in {_OPENS_IN[to]}.", soft_wrap=True)
