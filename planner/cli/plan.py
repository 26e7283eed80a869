"""``plan --budget B MODEL``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from remat_planner.planner.cli.checks import check_writable, sheet_of
from remat_planner.planner.cli.exit_codes import ExitCode, UsageError, outcome, print_document
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.options import (
    Accumulate,
    BudgetKind,
    Costs,
    Device,
    GradientBuckets,
    GradientDtype,
    Json,
    MasterWeights,
    ModelSpec,
    OffloadOptimizer,
    OptimizerName,
    Regions,
    Shard,
    Solver,
    ZeroStage,
)
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.measurement import Verification
from remat_planner.planner.model_loading import DEFAULT_NAME, LoadedModel, built_for, load_model
from remat_planner.planner.plan import trace_whole
from remat_planner.planner.planning import AUTO, Budget, budget_on_device, parse_budget, schedule_step, settings_for
from remat_planner.planner.regions import plan_regions
from remat_planner.planner.reports import (
    compare,
    one_line,
    plan_document,
    plan_report,
    region_document,
    region_hint,
    region_line,
    region_report,
    usage_hint,
    verification_report,
)
from remat_planner.planner.training_state import VIEWS
from remat_planner.planner.verify import verify
from remat_planner.schedules import RegionSchedule, Schedule
from remat_planner.solvers.registry import get as get_solver
from remat_planner.tracer.costs import MEASURE


def plan_command(
    model: ModelSpec,
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
    solver: Solver = "auto",
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="time for solving")] = 60.0,
    costs: Costs = MEASURE,
    device: Device = None,
    optimizer: OptimizerName = None,
    gradient_dtype: GradientDtype = None,
    master_weights: MasterWeights = False,
    shard: Shard = 1,
    zero_stage: ZeroStage = 3,
    offload_optimizer: OffloadOptimizer = False,
    accumulate: Accumulate = False,
    gradient_buckets: GradientBuckets = None,
    budget_on: BudgetKind = "allocated",
    regions: Regions = None,
    verify_it: Annotated[bool, typer.Option("--verify", help="run the real steps: compare bits and measure the peak")] = False,
    require_optimal: Annotated[
        bool, typer.Option("--require-optimal", help="exit with 5 unless the plan is proven optimal")
    ] = False,
    as_json: Json = False,
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
            if verify_it:
                raise UsageError(
                    f"--verify runs the step, which a plan for {device} on paper cannot: verify on the device itself"
                )
            costs = sheet_of(device, costs)
        if regions is not None and require_optimal:
            raise UsageError("a plan by regions proves no bound: leave out --require-optimal")
        if verify_it and (shard > 1 or gradient_dtype is not None or gradient_buckets == VIEWS):
            raise UsageError(
                "--verify runs the step in one process as PyTorch does: leave out --shard, --gradient-dtype and "
                f"--gradient-buckets {VIEWS}"
            )
        target = output or _default_output(model)
        check_writable(target)
        with Stages(quiet=quiet) as stages:
            stages.stage(f"Loading {model}")
            with built_for(device):
                loaded = load_model(model)
            asked = budget_on_device(budget, loaded.model, costs)
            stages.stage("Capturing the training step and its costs")
            settings = settings_for(
                loaded.model,
                solver=solver,
                time_limit=time_limit,
                loss=loaded.loss,
                costs=costs,
                optimizer=optimizer,
                gradient_dtype=gradient_dtype,
                master_weights=master_weights,
                shard=shard,
                zero_stage=zero_stage,
                optimizer_offload=offload_optimizer,
                accumulate=accumulate,
                gradient_buckets=gradient_buckets,
                budget_on=budget_on,
            )
            if regions is not None:
                by_regions = interruptibly(
                    lambda: plan_regions(
                        loaded.model,
                        loaded.args,
                        loaded.kwargs,
                        budget=asked,
                        regions=regions,
                        settings=settings,
                        stage=stages.stage,
                    )
                )
                verification = None
                if verify_it:
                    stages.stage("Verifying")
                    verification = _verified(loaded, by_regions)
                _finish_regions(result, by_regions, verification, target, asked, as_json=as_json, quiet=quiet)
                return
            step = trace_whole(loaded.model, loaded.args, loaded.kwargs, settings=settings, progress=stages.done)
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
            result.print(plan_report(schedule, comparison, understood=asked.describe(schedule.budget)))
            if verification is not None:
                result.print(verification_report(verification))
            if written is not None:
                result.print(usage_hint(schedule, written))
        if failed:
            raise typer.Exit(ExitCode.VERIFICATION_FAILED)
        if require_optimal and schedule.status != "optimal":
            raise typer.Exit(ExitCode.NOT_PROVEN)


def _finish_regions(
    result: Console,
    schedule: RegionSchedule,
    verification: Verification | None,
    target: Path,
    asked: Budget,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the schedule and say what it does, as for a whole model."""
    failed = verification is not None and not (verification.identical and verification.within_budget)
    if not failed:
        schedule.save(target)
    written = None if failed else str(target)
    if as_json:
        print_document(result, region_document(schedule, verification=verification, path=written))
    elif quiet:
        result.print(region_line(schedule, verification), soft_wrap=True)
    else:
        result.print(region_report(schedule, understood=asked.describe(schedule.budget)))
        if verification is not None:
            result.print(verification_report(verification))
        if written is not None:
            result.print(region_hint(written))
    if failed:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)


def _default_output(model: str) -> Path:
    place, _, name = model.rpartition(":") if ":" in model else (model, "", DEFAULT_NAME)
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    return Path(f"{stem}.schedule.json" if name == DEFAULT_NAME else f"{stem}-{name}.schedule.json")


def _verified(loaded: LoadedModel, schedule: Schedule | RegionSchedule) -> Verification:
    return verify(loaded.model, schedule, loaded.args, loaded.kwargs, loss=loaded.loss)
