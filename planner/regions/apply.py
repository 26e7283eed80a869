"""Puts a schedule by regions on a model and takes it off: replaces the forwards of its blocks, in place."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import nn

from remat_planner.planner.distributed import is_sharded, shard_count
from remat_planner.planner.errors import InfeasibleBudgetError
from remat_planner.planner.planning import (
    ENOUGH_FOR_REPLAN,
    REPLAN_TIME_LIMIT,
    Budget,
    Step,
    remember_capture,
    schedule_step,
    settings_for_replan,
    settings_of,
    state_signature,
    trace_step,
)
from remat_planner.planner.regions.forward import RegionForward, planned_regions, take_off
from remat_planner.planner.regions.options import RegionGraph
from remat_planner.planner.regions.select import named_in
from remat_planner.planner.regions.step_watch import RegionWatch
from remat_planner.planner.runtime import Replan
from remat_planner.schedules import Origin, RegionSchedule, Schedule, StaleScheduleError, origin_differences
from remat_planner.solvers import Deadline
from remat_planner.tracer.record import EveryOutput

_MOST_LINES = 8
"""Differences that an error lists."""


def apply_regions(
    model: nn.Module,
    schedule: RegionSchedule,
    *,
    replan: Replan | None = None,
    replan_time_limit: float = REPLAN_TIME_LIMIT,
    compiler: str | None = None,
    audit: bool = True,
    disk_folder: str | Path | None = None,
) -> nn.Module:
    """Replace the forward of each of the schedule's regions, and return ``model`` itself.

    ``compiler``, if given, compiles each region at its first call. ``replan`` makes a schedule for inputs of another form, by
    default ``replan_region`` with ``replan_time_limit`` seconds for solving. ``audit`` says whether each region is audited, all
    together in one hundredth of the time. ``disk_folder`` is for the files of regions that copy to a disk, by default the one
    that ``plan`` was given in this process.

    Raises:
        schedules.StaleScheduleError: the model has no such regions, or is sharded otherwise; it is left as it was.
    """
    modules = dict(model.named_modules())
    names = named_in(model, schedule.regions)
    blocks = {name: modules[here] for name, here in names.items() if here in modules}
    _refuse_another_model(blocks, schedule, tuple(modules))
    _refuse_other_shards(model, schedule)
    replan = replan or functools.partial(replan_region, time_limit=replan_time_limit, copies=compiler is None)
    audited = len(schedule.regions) if audit else 0
    if disk_folder is None:
        disk_folder = next((folder for _, form, _ in schedule.forms if (folder := settings_of(form).disk_folder)), None)
    watch = RegionWatch.of(schedule)
    watch.applied_to(model, {names[name]: block for name, block in blocks.items()})
    for name, region in schedule.regions.items():
        blocks[name].forward = RegionForward(blocks[name], region, replan, compiler, audited, disk_folder, name, watch)
    return model


def remove_regions(model: nn.Module) -> None:
    """Restore the blocks' own forwards."""
    for forward in planned_regions(model).values():
        take_off(forward.block)


def _refuse_another_model(blocks: Mapping[str, nn.Module], schedule: RegionSchedule, present: Sequence[str]) -> None:
    differences = tuple(
        line for name, region in schedule.regions.items() for line in _differences(name, region, blocks, present)
    )
    if differences:
        raise StaleScheduleError(
            f"the schedule was made for another model ({schedule.origin.model}): {'; '.join(differences[:_MOST_LINES])}. Plan "
            "again for this one",
            differences=differences,
        )


def _differences(name: str, region: Schedule, blocks: Mapping[str, nn.Module], present: Sequence[str]) -> list[str]:
    if name not in blocks:
        near = get_close_matches(name, present, n=2)
        return [f"no module {name}" + (f" (near it: {', '.join(near)})" if near else "")]
    planned, actual = dict(region.origin.parameters), state_signature(blocks[name])
    if any(map(is_sharded, blocks[name].parameters())):  # which are gathered in the dtype of a MixedPrecisionPolicy
        planned, actual = _shapes(planned), _shapes(actual)
    return [f"{name}: {line}" for line in origin_differences(Origin(parameters=planned), Origin(parameters=actual))]


def _shapes(signature: Mapping[str, str]) -> dict[str, str]:
    """The forms of tensors without their dtypes: "[4, 8] frozen"."""
    return {name: form[form.index("[") :] for name, form in signature.items()}


def _refuse_other_shards(model: nn.Module, schedule: RegionSchedule) -> None:
    ranks = schedule.origin.training.shard
    if (shards := shard_count(model)) > 1 and shards != ranks:
        planned = f"{ranks} ranks" if ranks > 1 else "parameters that are not divided"
        raise StaleScheduleError(
            f"the schedule was planned for {planned}, and the parameters of this {type(model).__name__} are divided over "
            f"{shards} ranks: its step takes other bytes. Plan this model, as it is wrapped, on every rank",
            differences=(f"shards: planned for {ranks}, found {shards}",),
        )


def replan_region(
    block: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    like: Schedule,
    *,
    time_limit: float = REPLAN_TIME_LIMIT,
    copies: bool = True,
) -> Schedule:
    """Plan a region for another form of its step, without copies unless ``copies`` can run.

    On inputs of the same form (other parameters are frozen, say) it takes no more bytes than ``like``, if there is such a
    schedule. Else it gets the same share of its peak without recomputation as ``like`` has: the whole step is not measured, so
    it may exceed the budget.
    """
    settings = replace(settings_for_replan(like, time_limit, copies=copies), loss=EveryOutput(like.origin.gradient_layouts))
    step = trace_step(block, args, kwargs, settings=settings)
    if step.origin.inputs == like.origin.inputs and (found := _within_the_bytes_of(like, step, time_limit)) is not None:
        return found
    try:
        share = Fraction(like.peak_bytes, like.baseline_peak_bytes)
        return schedule_step(step, Budget(share=share), enough=ENOUGH_FOR_REPLAN)
    except InfeasibleBudgetError as error:
        return schedule_step(step, error.minimum, enough=ENOUGH_FOR_REPLAN)


def _within_the_bytes_of(like: Schedule, step: Step, time_limit: float) -> Schedule | None:
    """The fastest schedule of ``step`` that retains no more bytes than ``like`` and has no higher peaks; None for none."""
    graph = step.graph.without_transfers
    planned = RegionGraph.of(like.graph).option(like.steps)
    for option in RegionGraph.of(graph).options(Deadline(time_limit)):
        if option.held <= planned.held and option.forward <= planned.forward and option.backward <= planned.backward:
            schedule = Schedule(
                graph=graph,
                steps=option.steps,
                budget=like.budget,
                solver="regions",
                status="feasible",
                bound_seconds=graph.seconds,
                origin=step.origin,
            )
            remember_capture(schedule, replace(step, graph=graph))
            return schedule
    return None
