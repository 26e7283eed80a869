"""``plan report``: a schedule as a page, or in the format of a viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remat_planner.planner.cli.checks import check_writable
from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.options import ScheduleFile, loaded_schedule
from remat_planner.planner.cli.outcome import outcome
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.reports import ENDINGS, BudgetCurve, ReportName, load_curve, report

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
    curve: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="draw this curve into the page; `plan curve --json` wrote it", show_default=False),
    ] = None,
) -> None:
    """Write a report on a schedule file as one page, or for Perfetto, pytorch.org/memory_viz or a spreadsheet."""
    with outcome(as_json=False) as result:
        planned = loaded_schedule(schedule)
        target = output or schedule.with_name(schedule.name.removesuffix(".json").removesuffix(".schedule") + ENDINGS[to])
        check_writable(target)
        if curve is not None and to != "html":
            raise UsageError(f"--curve is drawn into the page, which --to {to} does not write: leave one of them out")
        drawn = None if curve is None else _loaded_curve(curve)
        with Stages(quiet=False) as stages:
            stages.stage("Writing the report")
            interruptibly(lambda: report(planned, target, to=to, schedule_file=str(schedule), curve=drawn))
        result.print(f"{target} opens in {_OPENS_IN[to]}.", soft_wrap=True)


def _loaded_curve(path: Path) -> BudgetCurve:
    """Read a curve.

    Raises:
        UsageError: the file cannot be read or holds none.
    """
    try:
        return load_curve(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
