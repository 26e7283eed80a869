"""``plan --budget B MODEL``: the main job."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

import remat_planner
from remat_planner.planner.cli.checks import check_solver, check_writable, costs_for
from remat_planner.planner.cli.exit_codes import ExitCode, UsageError
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.offload_options import DiskBudget, DiskLink, HostBudget, Link, Pools, offload_from
from remat_planner.planner.cli.options import (
    BudgetKind,
    Costs,
    Device,
    Json,
    ModelSpec,
    OptimizerName,
    Regions,
    Solver,
)
from remat_planner.planner.cli.outcome import outcome, tell_error
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.cli.training_options import NO_OPTIONS, TrainingOptions, with_training_options
from remat_planner.planner.model_loading import DEFAULT_NAME, LoadedModel, built_for, load_model
from remat_planner.planner.plan import plan_whole_or_regions, trace_whole
from remat_planner.planner.planning import (
    AUTO,
    Budget,
    InputForm,
    Settings,
    budget_on_device,
    link_on_paper,
    parse_budget,
    schedule_step,
    settings_for,
)
from remat_planner.planner.regions import plan_regions
from remat_planner.planner.reports import (
    CopiesInstead,
    PolicyCost,
    RegionSummary,
    WholeSummary,
    compare,
    copies_instead,
    one_line,
    plan_document,
    plan_report,
    summarize,
    summarize_regions,
    usage_hint,
    verification_report,
)
from remat_planner.planner.training_state import beyond_one_process
from remat_planner.planner.verified_plan import Verdict, is_to_verify, verdict_on
from remat_planner.schedules import RegionSchedule, Schedule, TrainingState
from remat_planner.tracer.costs import MEASURE


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"remat_planner {remat_planner.__version__} (torch {torch.__version__})")
        raise typer.Exit


@with_training_options
def plan_command(
    model: ModelSpec,
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            metavar="BYTES",
            help='peak of one training step: "40GB" (10^9), "512MiB" (2^20), "60%" of the peak without recomputation; '
            '"auto": the GPU\'s memory less a reserve; "min": the least for which a schedule is found',
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="the schedule file; by default MODEL.schedule.json in this folder"),
    ] = None,
    solver: Solver = "auto",
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="time for solving")] = 60.0,
    costs: Costs = MEASURE,
    device: Device = None,
    optimizer: OptimizerName = None,
    training_options: TrainingOptions = NO_OPTIONS,
    budget_on: BudgetKind = "allocated",
    offload: Pools = None,
    host_budget: HostBudget = None,
    disk_budget: DiskBudget = None,
    link: Link = None,
    disk_link: DiskLink = None,
    regions: Regions = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="refuse a model that cannot be captured whole; else its blocks are planned then")
    ] = False,
    verify_it: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="run the real steps: compare bits and measure the peak; by default wherever the plan's device is at hand",
            show_default=False,
        ),
    ] = None,
    require_optimal: Annotated[
        bool, typer.Option("--require-optimal", help="exit with 5 unless the plan is proven optimal")
    ] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print one line, and no progress")] = False,
    version: Annotated[  # noqa: ARG001  (its callback answers)
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the versions and exit")
    ] = False,
) -> None:
    """Keep a model's training step within a number of bytes at the least extra time, and prove how near to the best that is."""
    with outcome(as_json=as_json) as result:
        if budget != AUTO:
            parse_budget(budget)  # a bad budget is refused before the model is loaded
        check_solver(solver, time_limit)
        if device is not None and verify_it:
            raise UsageError(f"--verify runs the step, which a plan for {device} on paper cannot: verify on the device itself")
        costs = costs_for(device, costs)
        if regions is not None and (require_optimal or whole):
            raise UsageError(
                "a plan by regions proves no bound: leave out --require-optimal"
                if require_optimal
                else "--whole and --regions contradict each other: give one"
            )
        whole = whole or require_optimal
        copies = offload_from(offload, host_budget, disk_budget, link, disk_link)
        if copies is not None and regions is not None:
            raise UsageError("a plan by regions copies no activations beside the device: leave --offload or --regions out")
        training = TrainingState(**training_options)
        if verify_it and beyond_one_process(training) is not None:
            raise UsageError(
                "--verify runs the step in one process as PyTorch does: leave out --shard, --gradient-dtype and "
                "--gradient-buckets views"
            )
        target = output or _default_output(model)
        check_writable(target)
        with Stages(quiet=quiet) as stages:
            stages.stage(f"Loading {model}")
            with built_for(device):
                loaded = load_model(model)
            limit = budget_on_device(budget, loaded.model, costs)
            stages.stage("Capturing the training step and its costs")
            settings = settings_for(
                loaded.model,
                solver=solver,
                time_limit=time_limit,
                loss=loaded.loss,
                costs=costs,
                optimizer=optimizer,
                training=training,
                budget_on=budget_on,
                offload=copies,
            )
            form = InputForm(loaded.args, loaded.kwargs)
            schedule = _planned(loaded, form, limit, settings, stages, regions=regions, whole=whole)
            comparison: list[PolicyCost] = []
            instead: CopiesInstead | None = None
            if isinstance(schedule, Schedule):
                stages.stage("Comparing with the usual policies")
                comparison = interruptibly(partial(compare, schedule))
                if (channels := link_on_paper(costs)) is not None:
                    stages.stage("Trying copies on the host")
                    instead = interruptibly(partial(copies_instead, schedule, *channels))
            verdict = Verdict(None, "as asked")
            if is_to_verify(verify_it):
                stages.stage("Verifying")
                verdict = verdict_on(
                    loaded.model,
                    form,
                    schedule,
                    settings,
                    lambda forms, budget: _planned(loaded, forms[0], budget, settings, stages, regions=regions, whole=whole),
                )
                if verify_it and verdict.verification is None:
                    raise UsageError(f"the plan cannot be verified here: {verdict.why_not}")
        verification = verdict.verification
        failed = verification is not None and not (verification.identical and verification.within_budget)
        not_saved = None if failed else _save(schedule, target)
        path = None if failed or not_saved else str(target)
        summary: WholeSummary | RegionSummary
        if isinstance(schedule, RegionSchedule):
            summary = summarize_regions(schedule, verification=verification, path=path)
        else:
            summary = summarize(schedule, comparison=comparison, verification=verification, instead=instead, path=path)
        understood = limit.describe(schedule.budget)
        _show(result, summary, verdict.why_not, understood, settings.disk_folder, as_json=as_json, quiet=quiet)
        if failed:
            raise typer.Exit(ExitCode.VERIFICATION_FAILED)
        if not_saved is not None:
            tell_error(f"{target} cannot be written ({not_saved}): make room or name another file with -o, and plan again")
            raise typer.Exit(ExitCode.USAGE)
        if require_optimal and isinstance(schedule, Schedule) and schedule.status != "optimal":
            raise typer.Exit(ExitCode.NOT_PROVEN)


def _planned(
    loaded: LoadedModel,
    form: InputForm,
    limit: Budget,
    settings: Settings,
    stages: Stages,
    *,
    regions: str | None,
    whole: bool,
) -> Schedule | RegionSchedule:
    model, args, kwargs = loaded.model, form.args, form.kwargs
    if regions is not None:
        return interruptibly(
            lambda: plan_regions(model, args, kwargs, budget=limit, regions=regions, settings=settings, stage=stages.stage)
        )
    if whole:
        step = trace_whole(model, args, kwargs, settings=settings, progress=stages.done)
        stages.stage("Solving")
        return interruptibly(lambda: schedule_step(step, limit, reporter=stages))
    # The capture stays in this thread: PyTorch's profiler, which measures memory, complains of others.
    return plan_whole_or_regions(
        model, form, limit, settings, stage=stages.stage, progress=stages.done, reporter=stages, run=interruptibly
    )


def _save(schedule: Schedule | RegionSchedule, target: Path) -> str | None:
    """Write the schedule; why it could not be written, else None. The report is worth printing without the file."""
    try:
        schedule.save(target)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _show(
    result: SafeConsole,
    summary: WholeSummary | RegionSummary,
    why_not: str,
    understood: str,
    disk_folder: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    if as_json:
        print_document(result, plan_document(summary))
    elif quiet:
        result.print(one_line(summary), soft_wrap=True)
    else:
        result.print(plan_report(summary, understood=understood))
        result.print(verification_report(summary.verification, why_not))
        if summary.schedule is not None:
            result.print(usage_hint(summary, disk_folder=disk_folder))


def _default_output(model: str) -> Path:
    place, _, name = model.rpartition(":") if ":" in model else (model, "", DEFAULT_NAME)
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    return Path(f"{stem}.schedule.json" if name == DEFAULT_NAME else f"{stem}-{name}.schedule.json")
