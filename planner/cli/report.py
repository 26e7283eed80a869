"""``plan report``: a schedule as a page, or in the format of a viewer."""

from __future__ import annotations

from pathlib import Path

from remat_planner.planner.cli.arguments import ReportArguments
from remat_planner.planner.cli.checks import check_writable, loaded_schedule
from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.output import SafeConsole
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.reports import ENDINGS, BudgetCurve, load_curve, report

_OPENS_IN = {
    "html": "any browser",
    "perfetto": "https://ui.perfetto.dev or chrome://tracing",
    "memory-viz": "https://pytorch.org/memory_viz",
    "csv": "any spreadsheet",
}


def report_command(result: SafeConsole, asked: ReportArguments) -> None:
    """Write a report on a schedule file as one page, or for Perfetto, pytorch.org/memory_viz or a spreadsheet."""
    planned = loaded_schedule(asked.schedule)
    target = asked.output or asked.schedule.with_name(
        asked.schedule.name.removesuffix(".json").removesuffix(".schedule") + ENDINGS[asked.to]
    )
    check_writable(target)
    if asked.curve is not None and asked.to != "html":
        raise UsageError(f"--curve is drawn into the page, which --to {asked.to} does not write: leave one of them out")
    drawn = None if asked.curve is None else _loaded_curve(asked.curve)
    with Stages(quiet=False) as stages:
        stages.stage("Writing the report")
        interruptibly(lambda: report(planned, target, to=asked.to, schedule_file=str(asked.schedule), curve=drawn))
    result.print(f"{target} opens in {_OPENS_IN[asked.to]}.", soft_wrap=True)


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
