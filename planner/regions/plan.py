"""From a model, regions and a number of bytes to a schedule for each region, within one budget for the whole step.

What runs between the regions is in no graph, so it is measured: the step is run with the regions by some schedules, and the
highest bytes of each stretch between their calls are taken down. With other schedules a stretch has more or fewer bytes by what
the regions then hold, or take in their own forward and backward, which the simulator knows. The schedules that are cheapest by
this reckoning are chosen and measured in turn, and only what was measured to stay within the budget is returned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.budget import Budget
from planner.errors import InfeasibleBudgetError, RegionError
from planner.optimizer import NO_OPTIMIZER
from planner.ranks import Ranks, own_part, parallel_wrapper, shards_of
from planner.real_step import Loss, device_of
from planner.regions.discover import Discovery, Region, discover
from planner.regions.find import AUTO, find_regions, merged_names, repeated_blocks
from planner.regions.measure import MeasuredStep, highest_of, measure_step
from planner.regions.options import Option, Part
from planner.regions.shared_casts import why_its_casts_are_shared
from planner.step import Settings, Step, costed_step, input_signature, own_origin, remember_capture, state_signature
from planner.training_state import ACCUMULATED, AS_THE_MODEL, BUCKETS, MASTER, bucket_bytes
from schedules import RegionSchedule, Schedule
from solvers import Deadline
from solvers.selection import Moment, select, select_lowest
from tracer import CaptureError
from tracer.devices import BLOCK, DEVICES
from tracer.errors import DataDependentError, ModelNotSupportedError, StateReassignedError, UnsupportedOperatorError
from tracer.loaded import is_instance
from tracer.loss import every_output
from tracer.lower import rounded_up
from tracer.state import ambient_autocast
from tracer.torch_private import fake_mode_of, storage_key

_MEASUREMENTS = 8
# What keeps a whole model from being captured and may lie between its blocks.
_BY_REGIONS = (DataDependentError, StateReassignedError, UnsupportedOperatorError, ModelNotSupportedError)
Choice = tuple[int, ...]


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
    """A schedule for each region such that the measured step stays within ``budget``; ``planner.plan`` says what it means.

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
    return _Choice(model, args, kwargs, found, steps, settings, ranks).within(ranks.agreed(lambda: budget), stage)


def called_regions(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    regions: str | type[nn.Module],
    loss: Loss | None = None,
) -> tuple[Region, ...]:
    """The regions that ``regions`` means, captured; of "auto" those that can be and are called.

    Raises:
        RegionError: nothing is meant, a region is not called in training, or shares the casts of its parameters.
        tracer.CaptureError: a region cannot be captured.
    """
    found = discover(model, args, kwargs, find_regions(model, regions), loss)
    why_shared = {region.name: why_its_casts_are_shared(model, region, found.read_outside) for region in found.regions}
    shared = {name: why for name, why in why_shared.items() if why is not None}
    if regions != AUTO:
        _refuse_uncaptured(found)
        for name, why in shared.items():
            raise RegionError(f"region {name!r}: {why}", names=(name,))
    apart = tuple(region for region in found.regions if region.name not in shared)
    if not apart:
        refused = {**found.refused, **shared}
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items()) or "the step calls none of them"
        raise RegionError(f"none of the repeated blocks can be planned: {reasons}", names=(*refused, *found.not_called))
    return apart


def name_regions(error: CaptureError, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Add to the error for a model that cannot be captured whole which of its blocks can be.

    Only where its forward may be run to find out, and runs.
    """
    if not isinstance(error, _BY_REGIONS) or fake_mode_of([*model.parameters()]) is not None:
        return
    blocks = repeated_blocks(model)
    try:
        found = discover(model, args, kwargs, blocks).regions if blocks else ()
    except Exception:  # the error that is reported is the one of the capture
        return
    if found:
        names = merged_names([region.name for region in found])
        error.args = (
            f'{error}. By itself each of {names} can be captured: regions="auto" (--regions auto) plans those',
            *error.args[1:],
        )


def _refuse_uncaptured(found: Discovery) -> None:
    for name, error in found.refused.items():
        error.args = (f"region {name!r}: {error}", *error.args[1:])
        raise error
    if found.not_called:
        raise RegionError(
            f"the step does not call the forward of {', '.join(found.not_called)} with gradients enabled, so there is nothing "
            "to plan: name regions that it calls, or give inputs with which it does",
            names=found.not_called,
        )


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


@dataclass
class _Distinct:
    """Regions with the same graph are solved once."""

    options: dict[str, tuple[Option, ...]]

    @classmethod
    def of(cls, steps: Mapping[str, Step], deadline: Deadline) -> _Distinct:
        graphs = {step.graph.fingerprint: step.graph for step in steps.values()}
        known = {fingerprint: Part.of(graph).options(deadline) for fingerprint, graph in graphs.items()}
        return cls({name: known[step.graph.fingerprint] for name, step in steps.items()})


class _Choice:
    """The choice of one option for each region."""

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        regions: Sequence[Region],
        steps: Mapping[str, Step],
        settings: Settings,
        ranks: Ranks,
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.settings = settings
        self.ranks = ranks
        self.steps = steps
        self.calls = {region.name: region.calls for region in regions}
        self.names = tuple(self.calls)
        self.deadline = Deadline(settings.time_limit)
        self.options = ranks.agreed(lambda: _Distinct.of(steps, self.deadline).options)
        self.constants = _highest(ranks.everyones(_constants(model, args, kwargs, settings)))
        self.update = max(ranks.everyones(settings.optimizer_needs.transient))
        self.moments: list[Moment] = []
        self.measured: dict[Choice, MeasuredStep] = {}

    def within(self, budget: Budget, stage: Callable[[str], None]) -> RegionSchedule:
        stage("Running the step with its regions")
        choice = tuple(self._lightest(name) for name in self.names)
        self._measure(choice)
        baseline = max(moment.bytes([0] * len(self.names)) for moment in self.moments)
        limit = budget.resolve(baseline)
        costs = [[self.calls[name] * option.seconds for option in self.options[name]] for name in self.names]
        while len(self.measured) < _MEASUREMENTS:
            following = self.ranks.agreed(lambda: select(costs, self.moments, limit))
            if following is None or following in self.measured:
                break
            stage("Running the step with the schedules chosen")
            self._measure(following)
            if self._peak(following) <= limit:
                break
        fitting = [choice for choice in self.measured if self._peak(choice) <= limit]
        if not fitting:
            self._measure(self.ranks.agreed(lambda: select_lowest(costs, self.moments)))
            fitting = [choice for choice in self.measured if self._peak(choice) <= limit]
        if not fitting:
            raise self._infeasible(limit)
        best = min(fitting, key=lambda choice: sum(of[o] for of, o in zip(costs, choice, strict=True)))
        return RegionSchedule(
            regions=self._schedules(best),
            calls=self.calls,
            budget=limit,
            peak_bytes=self._peak(best),
            baseline_peak_bytes=baseline,
            constants=self.constants,
            update=self.update,
            origin=replace(
                own_origin(
                    self.model,
                    state_signature(self.model),
                    input_signature(self.args, self.kwargs),
                    ambient_autocast(),
                    "the step that was run",
                    self.settings,
                    BLOCK if device_of(self.model).type == "cuda" else 1,
                ),
                shard=shards_of(self.model),
            ),
        )

    def _lightest(self, name: str) -> int:
        options = self.options[name]
        return min(range(len(options)), key=lambda o: (options[o].held, options[o].backward, options[o].seconds))

    def _schedules(self, choice: Choice) -> dict[str, Schedule]:
        schedules = {}
        for name, number in zip(self.names, choice, strict=True):
            step, option = self.steps[name], self.options[name][number]
            schedule = Schedule(
                graph=step.graph,
                steps=option.steps,
                budget=0,
                solver="regions",
                status="feasible",
                bound_seconds=step.graph.seconds,
                origin=step.origin,
            )
            schedule = replace(schedule, budget=schedule.peak_bytes)
            remember_capture(schedule, step)
            schedules[name] = schedule
        return schedules

    def _measure(self, choice: Choice) -> None:
        """Run the step with these options; what it took bounds what it takes with any others."""
        measured = measure_step(
            self.model,
            self.args,
            self.kwargs,
            self.settings.loss,
            self._schedules(choice),
            replan=_no_other_form,
            accumulate=self.settings.state.accumulate,
            rehearsals=self._rehearsals(),
        )
        step = highest_of(self.ranks.everyones(measured))
        self.measured[choice] = step
        base = sum(self.constants.values())
        place = {name: k for k, name in enumerate(self.names)}
        taken = {name: self.options[name][o] for name, o in zip(self.names, choice, strict=True)}
        for interval in step.intervals:
            sizes: dict[str, list[int]] = {}
            for name, calls in Counter(interval.holding).items():
                sizes[name] = [calls * (option.held - taken[name].held) for option in self.options[name]]
            if interval.kind != "between":
                name = interval.region
                own = [getattr(option, interval.kind) - getattr(taken[name], interval.kind) for option in self.options[name]]
                sizes[name] = [a + b for a, b in zip(sizes.get(name, [0] * len(own)), own, strict=True)]
            self.moments.append(Moment(base + interval.peak, {place[name]: of for name, of in sizes.items()}))
        self.moments.append(Moment(base + step.held + self.update, {}))

    def _rehearsals(self) -> int:
        """Steps to run before one that is measured: what libraries take once and keep is not the step's, nor are the buckets
        that DDP makes anew when its first step has shown it their order."""
        if not self.measured and parallel_wrapper(self.model) is not None:
            return 2
        return 1 if device_of(self.model).type == "cuda" else 0

    def _peak(self, choice: Choice) -> int:
        step = self.measured[choice]
        taken = max(step.highest.peak, step.held + self.update)
        return sum(self.constants.values()) + taken

    def _infeasible(self, limit: int) -> InfeasibleBudgetError:
        best = min(self.measured, key=self._peak)
        minimum, highest = self._peak(best), self.measured[best].highest
        where = f"the {highest.kind} of {highest.region}" if highest.region else "what runs between the regions"
        return InfeasibleBudgetError(
            f"no choice of schedules for the {len(self.names)} regions was found within {limit:,} bytes. The least that the "
            f"step was measured to take is {minimum:,} bytes, in {where}. Raise the budget to that, make the batch smaller, "
            "or plan more of the model by regions.",
            budget=limit,
            minimum=minimum,
            bottleneck=highest.region or "between the regions",
            proven=False,
        )


def _no_other_form(_model: nn.Module, args: Any, kwargs: Any, like: Schedule) -> Schedule:
    found, planned = dict(input_signature(args, kwargs)), dict(like.origin.inputs)
    raise RegionError(
        f"a region ({like.origin.model}) is called with {found} when the step is run, and with {planned} when it was captured: "
        "the step is not the same from run to run, and cannot be planned",
        names=(),
    )


def _highest(ranks: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {kind: max(one[kind] for one in ranks) for kind in ranks[0]}


def _constants(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], settings: Settings) -> dict[str, int]:
    """Bytes of the storages that are there before the step, each once, and of the optimizer's state; on this rank."""
    kinds: dict[str, list[torch.Tensor]] = {
        "parameters": list(model.parameters()),
        "buffers": list(model.buffers()),
        "inputs": [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)],
    }
    seen: set[int] = set()
    counted: dict[str, int] = {}
    for kind, tensors in kinds.items():
        fresh = {storage_key(t): t for t in map(own_part, tensors) if storage_key(t) not in seen}
        seen |= fresh.keys()
        counted[kind] = sum(rounded_up(t.untyped_storage().nbytes(), BLOCK if t.is_cuda else 1) for t in fresh.values())
    wrapper = parallel_wrapper(model)
    if wrapper is not None:
        counted[BUCKETS] = bucket_bytes(wrapper.module.parameters())
    state = settings.state
    if masters := sum(4 * state.local_numel(p) for p in model.parameters() if state.has_master(p)):
        counted[MASTER] = 0 if state.optimizer_offload else masters
    if state.accumulate and not (wrapper is not None and wrapper.gradient_as_bucket_view):
        counted[ACCUMULATED] = sum(state.gradient_bytes(p) for p in model.parameters() if p.requires_grad)
    if settings.optimizer is not None:
        counted["optimizer"] = settings.optimizer_needs.state
    return counted
