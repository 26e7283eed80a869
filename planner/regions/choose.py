"""TODO: ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.distributed import Ranks, own_part, parallel_wrapper, shards_of
from remat_planner.planner.errors import InfeasibleBudgetError, RegionError
from remat_planner.planner.measurement import device_of
from remat_planner.planner.planning import (
    Budget,
    Settings,
    Step,
    input_signature,
    own_origin,
    remember_capture,
    state_signature,
)
from remat_planner.planner.regions.capture import Region
from remat_planner.planner.regions.measure import MeasuredStep, highest_of, measure_step
from remat_planner.planner.regions.options import Option, Part
from remat_planner.planner.training_state import ACCUMULATED, BUCKETS, MASTER, bucket_bytes
from remat_planner.schedules import RegionSchedule, Schedule
from remat_planner.solvers import Deadline
from remat_planner.solvers.milp import Moment, select, select_lowest
from remat_planner.tracer.costs import BLOCK, rounded_up
from remat_planner.tracer.record import ambient_autocast
from remat_planner.tracer.torch_private import storage_key

_MEASUREMENTS = 8
Choice = tuple[int, ...]


@dataclass
class _Distinct:
    """Regions with the same graph are solved once."""

    options: dict[str, tuple[Option, ...]]

    @classmethod
    def of(cls, steps: Mapping[str, Step], deadline: Deadline) -> _Distinct:
        graphs = {step.graph.fingerprint: step.graph for step in steps.values()}
        known = {fingerprint: Part.of(graph).options(deadline) for fingerprint, graph in graphs.items()}
        return cls({name: known[step.graph.fingerprint] for name, step in steps.items()})


class ScheduleChooser:
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
