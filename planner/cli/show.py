"""The words beside the main job: ``plan verify``, ``plan show``, ``plan explain``, ``plan solvers``, ``plan devices``."""

from __future__ import annotations

from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated

import typer

from remat_planner.planner.cli.exit_codes import UsageError, outcome, print_document
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.options import Json, ScheduleFile, loaded_schedule
from remat_planner.planner.formatting import format_bytes_both
from remat_planner.planner.reports import (
    compare,
    explain,
    explanation_report,
    pinned_report,
    plan_document,
    plan_report,
    region_document,
    region_report,
)
from remat_planner.schedules import RegionSchedule


def show_command(schedule: ScheduleFile, as_json: Json = False) -> None:
    """Print the report of a schedule file again."""
    with outcome(as_json=as_json) as result:
        planned = loaded_schedule(schedule)
        if isinstance(planned, RegionSchedule):
            if as_json:
                print_document(result, region_document(planned, path=str(schedule)))
            else:
                result.print(region_report(planned, understood=format_bytes_both(planned.budget)))
            return
        comparison = interruptibly(lambda: compare(planned))
        if as_json:
            print_document(result, plan_document(planned, comparison=comparison, path=str(schedule)))
        else:
            result.print(plan_report(planned, comparison, understood=format_bytes_both(planned.budget)))
            result.print(pinned_report(planned))


def explain_command(
    schedule: ScheduleFile,
    what: Annotated[str, typer.Argument(metavar="WHAT", help="part of an op's name, module, operator or source line")],
    as_json: Json = False,
) -> None:
    """Say of one activation who reads it, what it costs, when it is in memory and what was decided."""
    with outcome(as_json=as_json) as result:
        planned = loaded_schedule(schedule)
        if isinstance(planned, RegionSchedule):
            raise UsageError(f"{schedule} is a schedule by regions, of which `plan show` tells; explain is for whole models")
        explanations = explain(planned, what)
        if not explanations:
            near = get_close_matches(
                what, {text for op in planned.graph.ops for text in (op.name, op.module, op.kind)}, cutoff=0.3
            )
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise UsageError(f"no op that takes memory has {what!r} in its name, module, operator or source{hint}")
        if as_json:
            print_document(result, {"explanations": [asdict(explanation) for explanation in explanations]})
        else:
            result.print(explanation_report(planned, explanations))
