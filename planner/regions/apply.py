"""Putting a schedule by regions on a model, and taking it off: the forwards of its blocks are replaced, in place."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from torch import nn

from remat_planner.planner.distributed import shards_of
from remat_planner.planner.errors import InfeasibleBudgetError
from remat_planner.planner.planning import Budget, schedule_step, settings_of, state_signature, trace_step
from remat_planner.planner.regions.forward import planned_regions, put_on, take_off
from remat_planner.planner.runtime import Replan
from remat_planner.schedules import Origin, RegionSchedule, Schedule, StaleScheduleError, origin_differences

_MOST_LINES = 8


def apply_regions(
    model: nn.Module, schedule: RegionSchedule, *, replan: Replan | None = None, compiler: str | None = None
) -> nn.Module:
    """Replace the forward of each of the schedule's regions; ``model`` itself comes back.

    Each is compiled by ``compiler``, where that is given, when it is first called.

    Raises:
        schedules.StaleScheduleError: the model has no such regions; it is left as it was.
    """
    blocks = dict(model.named_modules())
    what = [line for name, region in schedule.regions.items() for line in _differences(name, region, blocks)]
    if what:
        raise StaleScheduleError(
            f"the schedule was made for another model ({schedule.origin.model}): {'; '.join(what[:_MOST_LINES])}. Plan again "
            "for this one",
            differences=tuple(what),
        )
    if (shards := shards_of(model)) > 1 and shards != schedule.origin.shard:
        planned = f"{schedule.origin.shard} ranks" if schedule.origin.shard > 1 else "parameters that are not divided"
        raise StaleScheduleError(
            f"the schedule was planned for {planned}, and the parameters of this {type(model).__name__} are divided over "
            f"{shards} ranks: its step takes other bytes. Plan this model, as it is wrapped, on every rank",
            differences=(f"shards: planned for {schedule.origin.shard}, found {shards}",),
        )
    for name, region in schedule.regions.items():
        put_on(blocks[name], region, replan or replan_region, compiler)
    return model


def remove_regions(model: nn.Module) -> None:
    """Give the blocks their own forwards back."""
    for forward in planned_regions(model).values():
        take_off(forward.block)


def _differences(name: str, region: Schedule, blocks: Mapping[str, nn.Module]) -> list[str]:
    if name not in blocks:
        near = get_close_matches(name, blocks, n=2)
        return [f"no module {name}" + (f" (near it: {', '.join(near)})" if near else "")]
    found = origin_differences(Origin(parameters=region.origin.parameters), Origin(parameters=state_signature(blocks[name])))
    return [f"{name}: {line}" for line in found]


def replan_region(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], like: Schedule) -> Schedule:
    """Plan a region for inputs of another form: it may take the same share of its peak without recomputation as before.

    What the whole step takes with them is not known, so its budget is not promised.
    """
    step = trace_step(block, args, kwargs, settings=settings_of(like))
    try:
        return schedule_step(step, Budget(share=Fraction(like.peak_bytes, like.baseline_peak_bytes)))
    except InfeasibleBudgetError as error:
        return schedule_step(step, error.minimum)
