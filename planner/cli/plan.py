"""``plan --budget B MODEL``: the main job."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import typer

from remat_planner.planner.cli.arguments import PlanArguments
from remat_planner.planner.cli.compiled import compiled_command
from remat_planner.planner.cli.exit_codes import ExitCode, UsageError
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.outcome import tell_error
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.cli.plan_options import plan_options
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.cli.target import Target
from remat_planner.planner.model_loading import LoadedModel, load_model
from remat_planner.planner.plan import plan_ranges, plan_whole_or_regions, trace_whole, within
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
    size_ranges,
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
from remat_planner.planner.verified_plan import Verdict, is_to_verify, verdicts_on, worst_of
from remat_planner.schedules import RegionSchedule, Schedule


def plan_command(result: SafeConsole, asked: PlanArguments) -> None:
    """Keep a model's training step within a number of bytes at the least extra time, and prove how near to the best that is."""
    if asked.budget != AUTO:
        parse_budget(asked.budget)  # a bad budget is refused before the model is loaded
    if asked.compiler is not None:
        compiled_command(result, asked)
        return
    options = plan_options(asked)
    if asked.device is not None and asked.verify_it:
        raise UsageError(
            f"--verify runs the step, which a plan for {asked.device} on paper cannot: verify on the device itself"
        )
    if asked.regions is not None and (asked.require_optimal or asked.whole):
        raise UsageError(
            "a plan by regions proves no bound: leave out --require-optimal"
            if asked.require_optimal
            else "--whole and --regions contradict each other: give one"
        )
    if asked.regions is not None and asked.shapes is not None:
        raise UsageError("regions are planned for the sizes that the step runs with: leave out --shapes or --regions")
    whole = asked.whole or asked.require_optimal
    if asked.verify_it and beyond_one_process(options["training"]) is not None:
        raise UsageError(
            "--verify runs the step in one process as PyTorch does: leave out --shard, --gradient-dtype and "
            "--gradient-buckets views"
        )
    target = Target.of(asked)
    with Stages(quiet=asked.quiet, time_limit=asked.time_limit) as stages:
        stages.stage(f"Loading {asked.model}")
        loaded = load_model(asked.model, asked.device)
        limit = budget_on_device(asked.budget, loaded.model, options["costs"])
        stages.stage("Capturing the training step and its costs")
        settings = settings_for(loaded.model, loss=loaded.loss, **options)
        form = InputForm(loaded.args, loaded.kwargs)
        ranges = size_ranges(asked.shapes, form) if asked.shapes is not None else ()
        schedule: Schedule | RegionSchedule
        if ranges:  # each part is captured after the one before is solved
            schedule = plan_ranges(loaded.model, form, ranges, limit, settings)
        else:
            schedule = _planned(loaded, form, limit, settings, stages, regions=asked.regions, whole=whole)
        comparison: list[PolicyCost] = []
        instead: CopiesInstead | None = None
        if isinstance(schedule, Schedule):
            stages.stage("Comparing with the usual policies")
            comparison = interruptibly(partial(compare, schedule))
            if (channels := link_on_paper(settings.costs)) is not None:
                stages.stage("Trying copies on the host")
                instead = interruptibly(partial(copies_instead, schedule, *channels))
        verdict = Verdict(None, "as asked")
        if is_to_verify(asked.verify_it):
            stages.stage("Verifying")
            verdict = worst_of(
                verdicts_on(
                    loaded.model,
                    (form,),
                    within(form, ranges),
                    schedule,
                    settings,
                    lambda forms, budget: _planned(
                        loaded, forms[0], budget, settings, stages, regions=asked.regions, whole=whole
                    ),
                )
            )
            if asked.verify_it and verdict.verification is None:
                raise UsageError(f"the plan cannot be verified here: {verdict.why_not}")
    verification = verdict.verification
    failed = verification is not None and not (verification.as_promised and verification.within_budget)
    saved = None if failed else target.save(schedule, result)
    path = None if saved is None else saved.path
    summary: WholeSummary | RegionSummary
    if isinstance(schedule, RegionSchedule):
        summary = summarize_regions(schedule, verification=verification, path=path)
    else:
        summary = summarize(schedule, comparison=comparison, verification=verification, instead=instead, path=path)
    understood = limit.describe(schedule.budget)
    _show(
        target.report_to(result),
        summary,
        verdict.why_not,
        understood,
        settings.disk_folder,
        as_json=asked.as_json,
        quiet=asked.quiet,
    )
    if failed:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)
    if saved is not None and saved.failure:
        tell_error(saved.failure)
        raise typer.Exit(ExitCode.USAGE)
    if asked.require_optimal and isinstance(schedule, Schedule) and schedule.status != "optimal":
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
