"""From a model, regions and a number of bytes to a schedule for each region, within one budget for the whole step.

What runs between the regions is in no graph, so it is measured: the step is run with the regions by some schedules, and the
highest bytes of each stretch between their calls are taken down. With other schedules a stretch has more or fewer bytes by what
the regions then hold, or take in their own forward and backward, which the simulator knows. The schedules that are cheapest by
this reckoning are chosen and measured in turn, and only what was measured to stay within the budget is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from remat_planner.planner.distributed import Ranks
from remat_planner.planner.errors import RegionError
from remat_planner.planner.planning import Budget, Settings, Step, costed_step, merged_names
from remat_planner.planner.regions.called import called_regions
from remat_planner.planner.regions.capture import Region
from remat_planner.planner.regions.choose import ScheduleChooser
from remat_planner.planner.training_state import AS_THE_MODEL, NO_OPTIMIZER
from remat_planner.schedules import RegionSchedule
from remat_planner.tracer.costs import DEVICES
from remat_planner.tracer.errors import (
    ModelNotSupportedError,
)
from remat_planner.tracer.lazy_types import is_instance
from remat_planner.tracer.record import every_output
from remat_planner.tracer.torch_private import fake_mode_of


def plan_regions(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    budget: Budget,
    regions: str | type[nn.Module],
    settings: Settings,
    stage: Callable[[str], None] = lambda _: None,
) -> RegionSchedule:
    """A schedule for each region such that the measured step stays within ``budget``; see ``remat_planner.plan``.

    Raises:
        RegionError: the regions cannot be planned as asked.
        InfeasibleBudgetError: no choice of schedules was measured to stay within the budget.
        tracer.CaptureError: a region cannot be captured.
    """
    _refuse_on_paper(model, settings)
    _refuse_copies(model)
    stage("Capturing the regions")
    ranks = Ranks.of(model)
    found = called_regions(model, args, kwargs, regions, settings.loss)
    stage("Finding what each distinct region can keep")
    steps = _costed_alike(_costed(found, settings), ranks)
    return ScheduleChooser(model, args, kwargs, found, steps, settings, ranks).within(ranks.agreed(lambda: budget), stage)


def _refuse_on_paper(model: nn.Module, settings: Settings) -> None:
    if settings.costs.lower() in DEVICES or fake_mode_of(list(model.parameters())) is not None:
        raise RegionError(
            "regions are planned by running the step on its device, which a plan on paper cannot: leave out the device's name, "
            "or plan the whole model",
            names=(),
        )
    state = replace(settings.state, master_weights=False, optimizer_offload=False, accumulate=False)
    if state != AS_THE_MODEL or settings.budget_on != "allocated":
        raise RegionError(
            "regions are planned by running the step as it is, and what is handed out is measured: leave gradient_dtype, "
            "gradient_buckets, shard and budget_on out. What DistributedDataParallel or fully_shard take is measured where the "
            "model that is planned is wrapped by them, on every rank",
            names=(),
        )


def _refuse_copies(model: nn.Module) -> None:
    """Refuse wrappers that do not call the blocks themselves, or not with their own parameters."""
    for module in model.modules():
        if isinstance(module, nn.DataParallel) or is_instance(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            raise ModelNotSupportedError(
                f"the model is wrapped by {type(module).__name__}, which gives its blocks other parameters at each step: wrap "
                "it with DistributedDataParallel or fully_shard (FSDP2), and plan that on every rank",
                kind=type(module).__name__,
            )


def _costed(regions: Sequence[Region], settings: Settings) -> dict[str, Step]:
    own = replace(settings, loss=every_output, optimizer=None, optimizer_needs=NO_OPTIMIZER, state=AS_THE_MODEL)
    return {region.name: costed_step(region.joint, region.parameters, region.inputs, own) for region in regions}


def _costed_alike(steps: Mapping[str, Step], ranks: Ranks) -> dict[str, Step]:
    """The steps with the seconds that the first rank measured, so that all ranks find the same schedules.

    Raises:
        RegionError: ranks run different steps.
    """
    if not ranks.several:
        return dict(steps)
    different = ranks.everyones({name: step.graph.fingerprint for name, step in steps.items()})
    names = tuple(dict.fromkeys(name for one in different for name in one if any(o.get(name) != one[name] for o in different)))
    if names:
        raise RegionError(
            f"the ranks do not run the same step: {merged_names(names)} has other operators or shapes on some of them. Plan on "
            "every rank with inputs of the same shapes",
            names=names,
        )
    graphs = ranks.agreed(lambda: {name: step.graph for name, step in steps.items()})
    return {name: replace(step, graph=graphs[name]) for name, step in steps.items()}
