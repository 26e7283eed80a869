"""``plan --budget B MODEL``: the main job."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from planner.budget import AUTO, parse_budget
from planner.capacity import budget_on_device
from planner.cli.interruptible import interruptibly
from planner.cli.outcome import ExitCode, UsageError, outcome, print_document
from planner.cli.progress import Stages
from planner.fake_build import built_without_memory
from planner.loading import DEFAULT_NAME, LoadedModel, load_model
from planner.plan import schedule_step, settings_for
from planner.reports.comparison import compare
from planner.reports.document import plan_document
from planner.reports.render import one_line, plan_report, usage_hint, verification_report
from planner.step import trace_step
from planner.verify import Verification, verify
from schedules import Schedule
from solvers.registry import get as get_solver
from tracer.costs import MEASURE
from tracer.devices import device_named

MODEL_HELP = (
    "model.py, model.py:name or package.module:name; the function (build, unless named) takes nothing and returns "
    "(model, inputs) or (model, inputs, loss)"
)


def plan_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)],
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            metavar="BYTES",
            help='peak of one training step: "40GB" (10^9), "512MiB" (2^20), "60%" of the peak without recomputation; '
            '"auto": the GPU\'s memory less a reserve',
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="the schedule file; by default MODEL.schedule.json in this folder"),
    ] = None,
    solver: Annotated[str, typer.Option(help="one out of `plan solvers`")] = "auto",
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="time for solving")] = 60.0,
    costs: Annotated[
        str,
        typer.Option(metavar="SOURCE", help="where the seconds come from: measure (on the model's device) or a profile.json"),
    ] = MEASURE,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="plan for this GPU from its data sheet, with a model that takes no memory here; one out of `plan devices`",
            show_default=False,
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="count this optimizer's state and step too: adamw, adamw:fused=True, sgd:momentum=0.9, ...",
            show_default=False,
        ),
    ] = None,
    verify_it: Annotated[bool, typer.Option("--verify", help="run the real steps: compare bits and measure the peak")] = False,
    require_optimal: Annotated[
        bool, typer.Option("--require-optimal", help="exit with 5 unless the plan is proven optimal")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document instead of the report")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print one line, and no progress")] = False,
) -> None:
    """Keep a model's training step within a number of bytes at the least extra time, and prove how near to the best that is."""
    with outcome(as_json=as_json) as result:
        if budget != AUTO:
            parse_budget(budget)  # what means nothing is refused before the model is loaded
        get_solver(solver)
        if not time_limit >= 0:  # NaN too
            raise UsageError(f"the time limit is {time_limit:g} seconds: give zero or more")
        if device is not None:
            costs = _sheet_of(device, costs, verify_it)
        target = output or _default_output(model)
        check_writable(target)
        with Stages(quiet=quiet) as stages:
            stages.stage(f"Loading {model}")
            with built_without_memory() if device is not None else nullcontext():
                loaded = load_model(model)
            asked = budget_on_device(budget, loaded.model, costs)
            stages.stage("Capturing the training step and its costs")
            settings = settings_for(
                loaded.model, solver=solver, time_limit=time_limit, loss=loaded.loss, costs=costs, optimizer=optimizer
            )
            step = trace_step(loaded.model, loaded.args, loaded.kwargs, settings=settings, progress=stages.done)
            stages.stage("Solving")
            schedule = interruptibly(lambda: schedule_step(step, asked, reporter=stages))
            stages.stage("Comparing with the usual policies")
            comparison = interruptibly(lambda: compare(schedule))
            verification = None
            if verify_it:
                stages.stage("Verifying")
                verification = _verified(loaded, schedule)
        failed = verification is not None and not (verification.identical and verification.within_budget)
        if not failed:
            schedule.save(target)
        written = None if failed else str(target)
        if as_json:
            print_document(result, plan_document(schedule, comparison=comparison, verification=verification, path=written))
        elif quiet:
            result.print(one_line(schedule, verification), soft_wrap=True)
        else:
            result.print(plan_report(schedule, comparison, understood=asked.describe(schedule.baseline_peak_bytes)))
            if verification is not None:
                result.print(verification_report(verification))
            if written is not None:
                result.print(usage_hint(schedule, written))
        if failed:
            raise typer.Exit(ExitCode.VERIFICATION_FAILED)
        if require_optimal and schedule.status != "optimal":
            raise typer.Exit(ExitCode.NOT_PROVEN)


def _sheet_of(device: str, costs: str, verify_it: bool) -> str:
    """The costs to ask for where ``--device`` names a GPU."""
    if verify_it:
        raise UsageError(f"--verify runs the step, which a plan for {device} on paper cannot: verify on the device itself")
    if costs != MEASURE:
        raise UsageError(f"--device {device} takes the costs from its data sheet and --costs {costs} from elsewhere: give one")
    return device_named(device).name


def check_writable(path: Path) -> None:
    """Find out before the work whether ``path`` can be written after it.

    Raises:
        UsageError: it cannot.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file for the schedule with -o")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file with -o") from error


def _default_output(model: str) -> Path:
    place, _, name = model.rpartition(":") if ":" in model else (model, "", DEFAULT_NAME)
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    return Path(f"{stem}.schedule.json" if name == DEFAULT_NAME else f"{stem}-{name}.schedule.json")


def _verified(loaded: LoadedModel, schedule: Schedule) -> Verification:
    return verify(loaded.model, schedule, loaded.args, loaded.kwargs, loss=loaded.loss)
