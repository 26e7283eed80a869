"""``plan show`` and ``plan explain``: what a schedule file says, without its model."""

from __future__ import annotations

from dataclasses import asdict
from difflib import get_close_matches

from remat_planner.planner.cli.arguments import ExplainArguments, ShowArguments
from remat_planner.planner.cli.checks import loaded_schedule
from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.formatting import format_bytes_both
from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.reports import (
    RegionSummary,
    WholeSummary,
    compare,
    explain,
    explain_together,
    explanation_report,
    pinned_report,
    plan_document,
    plan_report,
    summarize,
    summarize_regions,
)
from remat_planner.schedules import RegionSchedule, Schedule


def show_command(result: SafeConsole, asked: ShowArguments) -> None:
    """Print the report of a schedule file again."""
    planned = loaded_schedule(asked.schedule)
    summary: WholeSummary | RegionSummary
    if isinstance(planned, RegionSchedule):
        summary = summarize_regions(planned, path=str(asked.schedule))
    else:
        summary = summarize(planned, comparison=interruptibly(lambda: compare(planned)), path=str(asked.schedule))
    if asked.as_json:
        print_document(result, plan_document(summary))
        return
    result.print(plan_report(summary, understood=format_bytes_both(planned.budget)))
    if isinstance(summary, WholeSummary):
        result.print(pinned_report(summary))


def explain_command(result: SafeConsole, asked: ExplainArguments) -> None:
    """Say what a module holds at the peak and what recomputing it costs and saves, and of its activations who reads them."""
    planned = loaded_schedule(asked.schedule)
    title = what = asked.what
    if isinstance(planned, RegionSchedule):
        planned, what = _region_of(planned, what)
        title += ", in one call of its region, counted by itself"
    together, explanations = explain_together(planned, what, title=title), explain(planned, what)
    if not explanations:
        raise UsageError(f"no op that takes memory has {what!r} in its name, module, operator or source{_near(planned, what)}")
    if asked.as_json:
        parts = [asdict(explanation) for explanation in explanations]
        print_document(result, {"together": asdict(together) if together else None, "explanations": parts})
    else:
        result.print(explanation_report(planned, together, explanations))


def _region_of(planned: RegionSchedule, what: str) -> tuple[Schedule, str]:
    """The schedule of the region that ``what`` begins with, and the rest of ``what``.

    Raises:
        UsageError: no region is meant.
    """
    for name, region in planned.regions.items():
        if f"{what}.".startswith(f"{name}."):
            return region, what[len(name) + 1 :]
    raise UsageError(
        f"this is a schedule by regions, and {what!r} is in none of them: name one, or a module in one, of "
        f"{merged_names(list(planned.regions))}"
    )


def _near(planned: Schedule, what: str) -> str:
    names = {text for op in planned.graph.ops for text in (op.name, op.module, op.kind)}
    near = get_close_matches(what, names, cutoff=0.3)
    return f"; near it: {', '.join(near)}" if near else ""
