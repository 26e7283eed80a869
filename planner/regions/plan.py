"""Plans by regions: from a model, its regions and a number of bytes to a schedule for each region, for the whole step's budget.

No graph covers the code between the regions, so the step is run and measured (``ScheduleChooser``). A measured step also shows
how the gradients lie that arrive at the regions. If they do not lie as in the capture, the regions are captured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from remat_planner.planner.distributed import Ranks
from remat_planner.planner.errors import RegionError
from remat_planner.planner.measurement import state_restored
from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.planning import Budget, Settings, Step, costed_step
from remat_planner.planner.regions.called import WantedRegions, called_regions
from remat_planner.planner.regions.capture import CapturedRegion, GradientLayouts
from remat_planner.planner.regions.choose import ScheduleChooser
from remat_planner.planner.regions.draws import draw_most_calls
from remat_planner.planner.regions.options import RegionGraph, RegionOption
from remat_planner.planner.regions.select import AUTO_REGIONS, select_regions
from remat_planner.planner.runtime import unplanned_on_purpose
from remat_planner.planner.training_state import NO_OPTIMIZER
from remat_planner.schedules import RegionSchedule, TrainingState
from remat_planner.solvers import Deadline
from remat_planner.tracer.costs import DEVICES
from remat_planner.tracer.errors import ModelNotSupportedError
from remat_planner.tracer.lazy_types import is_instance
from remat_planner.tracer.record import EveryOutput
from remat_planner.tracer.torch_private import fake_mode_of

_MOST_CAPTURES = 3
"""Captures of the regions. A gradient that lies otherwise in one region may change how the one before it gets its own."""


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
        InfeasibleBudgetError: no measured choice of schedules stays within the budget.
        OffloadError: what they copy to has no room.
        tracer.CaptureError: a region cannot be captured.
    """
    _refuse_on_paper(model, settings)
    _refuse_imagined_training(settings)
    _refuse_copying_wrappers(model)
    ranks = Ranks.of(model)
    options: dict[str, tuple[RegionOption, ...]] = {}
    layouts: Mapping[str, GradientLayouts] = {}
    others = () if settings.loss is None else (settings.loss,)
    wanted = WantedRegions(select_regions(model, regions), automatic=regions == AUTO_REGIONS)
    # The first forward shows which globals it can reach, and each step that is measured puts them back.
    with unplanned_on_purpose(model), state_restored(model, args, kwargs, others) as kept:
        if not ranks.several:  # which would draw each for itself
            wanted = replace(wanted, by_chance=draw_most_calls(model, args, kwargs, wanted.blocks.values(), kept))
        for attempt in range(_MOST_CAPTURES):
            stage("Capturing the regions")
            captured = called_regions(model, args, kwargs, wanted, settings.loss, layouts, kept)
            stage("Finding what each distinct region can keep")
            steps = _costed_alike(_costed(captured, settings), ranks)
            options |= _options_of(steps, options, Deadline(settings.time_limit), ranks)
            options_by_name = {name: options[step.graph.fingerprint] for name, step in steps.items()}
            chooser = ScheduleChooser(model, args, kwargs, captured, steps, options_by_name, settings, ranks, kept)
            stage("Running the step with its regions")
            arriving = chooser.measure_lightest()
            if arriving == layouts or attempt == _MOST_CAPTURES - 1:
                break
            layouts = arriving
        return chooser.within(ranks.agreed(lambda: budget), stage)


def _refuse_on_paper(model: nn.Module, settings: Settings) -> None:
    if settings.costs.lower() in DEVICES or fake_mode_of(list(model.parameters())) is not None:
        raise RegionError(
            "a plan by regions runs the step on its device, which a plan on paper cannot: leave the device's name out, or plan "
            "the whole model",
            names=(),
        )


def _refuse_imagined_training(settings: Settings) -> None:
    """Refuse options that change the step which is measured, or what is measured of it."""
    if settings.variants != "exact":
        raise RegionError('a plan by regions has eager\'s bits: leave variants="any" out', names=())
    if settings.order != "given":
        raise RegionError('a plan by regions keeps the order of first executions: leave order="any" out', names=())
    changed = replace(settings.training, master_weights=False, optimizer_offload=False, accumulate=False)
    if changed != TrainingState() or settings.budget_on != "allocated":
        raise RegionError(
            "a plan by regions runs the step as it is and measures the allocated bytes: leave gradient_dtype, "
            "gradient_buckets, outputs, shard and budget_on out. To count what DistributedDataParallel or fully_shard take, "
            "wrap the model with them first, and plan it on every rank",
            names=(),
        )


def _refuse_copying_wrappers(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.DataParallel) or is_instance(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            raise ModelNotSupportedError(
                f"the model is wrapped by {type(module).__name__}, which gives its blocks other parameters at each step: wrap "
                "it with DistributedDataParallel or fully_shard (FSDP2), and plan that on every rank",
                kind=type(module).__name__,
            )


def _costed(regions: Sequence[CapturedRegion], settings: Settings) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for region in regions:
        of_region = replace(
            settings,
            loss=EveryOutput(region.gradient_layouts),
            optimizer=None,
            optimizer_needs=NO_OPTIMIZER,
            training=TrainingState(),
        )
        step = costed_step(region.joint, region.parameters, region.inputs, of_region)
        steps[region.label] = replace(step, origin=replace(step.origin, gradient_layouts=region.gradient_layouts))
    return steps


def _costed_alike(steps: Mapping[str, Step], ranks: Ranks) -> dict[str, Step]:
    """The steps with the seconds that the first rank measured, so that all ranks choose the same schedules.

    Raises:
        RegionError: ranks run different steps.
    """
    if not ranks.several:
        return dict(steps)
    fingerprints = ranks.gathered({name: step.graph.fingerprint for name, step in steps.items()})
    names = tuple(
        dict.fromkeys(
            name for own in fingerprints for name in own if any(other.get(name) != own[name] for other in fingerprints)
        )
    )
    if names:
        raise RegionError(
            f"the ranks do not run the same step: {merged_names(names)} has other operators or shapes on some of them. Plan on "
            "every rank with inputs of the same shapes",
            names=names,
        )
    graphs = ranks.agreed(lambda: {name: step.graph for name, step in steps.items()})
    return {name: replace(step, graph=graphs[name]) for name, step in steps.items()}


def _options_of(
    steps: Mapping[str, Step], known: Mapping[str, tuple[RegionOption, ...]], deadline: Deadline, ranks: Ranks
) -> dict[str, tuple[RegionOption, ...]]:
    """The options of each distinct graph that is not ``known``, by fingerprint."""
    graphs = {step.graph.fingerprint: step.graph for step in steps.values()}
    return ranks.agreed(lambda: {f: RegionGraph.of(g).options(deadline) for f, g in graphs.items() if f not in known})
