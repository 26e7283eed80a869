"""The words beside the main job: ``plan verify``, ``plan show``, ``plan explain``, ``plan solvers``, ``plan devices``."""

from __future__ import annotations

from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from planner.cli.interruptible import interruptibly
from planner.cli.options import Json, ModelSpec
from planner.cli.outcome import ExitCode, UsageError, outcome, print_document
from planner.cli.progress import Stages
from planner.loading import load_model
from planner.reports.comparison import compare
from planner.reports.document import plan_document, verification_document
from planner.reports.explanation import explain
from planner.reports.regions import region_document, region_report
from planner.reports.render import explanation_report, pinned_report, plan_report, verification_report
from planner.units import format_bytes, format_bytes_both
from planner.verify import verify
from schedules import RegionSchedule, Schedule
from schedules.files import load_schedule
from solvers import available
from tracer.devices import DEVICES

ScheduleFile = Annotated[Path, typer.Argument(metavar="SCHEDULE", help="a schedule file that plan wrote", show_default=False)]


def verify_command(
    schedule: ScheduleFile,
    model: ModelSpec,
    as_json: Json = False,
) -> None:
    """Run a schedule's real training step beside eager's: compare every bit and measure the peak."""
    with outcome(as_json=as_json) as result:
        planned = loaded_schedule(schedule)
        with Stages(quiet=False) as stages:
            stages.stage(f"Loading {model}")
            loaded = load_model(model)
            stages.stage("Verifying")
            verification = verify(loaded.model, planned, loaded.args, loaded.kwargs, loss=loaded.loss)
        if as_json:
            print_document(result, verification_document(verification))
        else:
            result.print(verification_report(verification))
        if not (verification.identical and verification.within_budget):
            raise typer.Exit(ExitCode.VERIFICATION_FAILED)


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


def devices_command(as_json: Json = False) -> None:
    """List the GPUs that `plan --device` knows, with what their data sheets say."""
    with outcome(as_json=as_json) as result:
        if as_json:
            print_document(result, {name: asdict(device) for name, device in DEVICES.items()})
            return
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
        for title in ("name", "memory", "bandwidth", "bfloat16", "float32"):
            table.add_column(title, justify="left" if title == "name" else "right", no_wrap=True)
        for name, device in DEVICES.items():
            rates = (f"{device.rate(dtype) / 1e12:,.0f} TFLOP/s" for dtype in (torch.bfloat16, torch.float32))
            table.add_row(name, format_bytes(device.memory), f"{format_bytes(device.bandwidth)}/s", *rates)
        result.print(table)


def solvers_command(as_json: Json = False) -> None:
    """List the solvers that can run here."""
    with outcome(as_json=as_json) as result:
        if as_json:
            print_document(result, available())
            return
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, description in available().items():
            table.add_row(name, description)
        result.print(table)


def loaded_schedule(path: Path) -> Schedule | RegionSchedule:
    """The schedule in a file.

    Raises:
        UsageError: the file cannot be read.
        schedules.ScheduleFileError: it holds no schedule.
    """
    try:
        return load_schedule(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
