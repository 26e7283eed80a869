"""Chooses a schedule for each region, by measured steps and a knapsack, so that the whole step stays within the budget.

A measured step gives the peak of each interval under one choice of options. Under another choice, the peak changes by what the
regions then retain, or take in their own forward and backward, which the simulator knows. So each interval is one constraint of
a multiple-choice knapsack. Its cheapest answer is measured in turn, which adds constraints, until a measured step fits. What
the regions copy to a pool stays there from their forward to their backward, so one more constraint holds all of it in the pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from remat_planner.planner.distributed import Ranks, parallel_wrapper, shard_count
from remat_planner.planner.errors import InfeasibleBudgetError, RegionError
from remat_planner.planner.formatting import format_percent
from remat_planner.planner.measurement import KeptState, device_of
from remat_planner.planner.planning import (
    Budget,
    Settings,
    Step,
    input_signature,
    new_origin,
    remember_capture,
    state_signature,
)
from remat_planner.planner.regions.arriving_gradients import ArrivingGradients
from remat_planner.planner.regions.capture import CapturedRegion, GradientLayouts
from remat_planner.planner.regions.measure import MeasuredStep, highest_of, joined, measure_step
from remat_planner.planner.regions.options import RegionOption
from remat_planner.planner.regions.resident_bytes import resident_bytes
from remat_planner.schedules import Graph, RegionSchedule, Schedule
from remat_planner.solvers.milp import Moment, Room, select, select_lowest
from remat_planner.tracer.costs import BLOCK
from remat_planner.tracer.record import ambient_autocast

_MOST_MEASUREMENTS = 8
"""Measured steps. The constraints of two or three nearly always suffice; each step costs real time."""

Choice = tuple[int, ...]
"""The index of an option for each region."""


class ScheduleChooser:
    """Measures steps of ``model`` and chooses one option for each region.

    Args:
        model: the model that is trained.
        args: its positional inputs.
        kwargs: its named inputs.
        regions: the captured regions.
        steps: the costed step of each region, by label.
        options: the options of each region, by label.
        settings: what the schedules are planned with.
        ranks: the processes that train together.
        kept: knows which globals the forward can reach.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        regions: Sequence[CapturedRegion],
        steps: Mapping[str, Step],
        options: Mapping[str, Sequence[RegionOption]],
        settings: Settings,
        ranks: Ranks,
        kept: KeptState,
    ) -> None:
        self._kept = kept
        self._model, self._args, self._kwargs = model, args, kwargs
        self._steps, self._options = steps, options
        self._settings = settings
        self._ranks = ranks
        self._blocks = {region.label: region.name for region in regions}
        self._calls = {region.label: max(region.calls, 1) for region in regions}
        self._names = tuple(self._calls)
        self._left_out = tuple(region for region in regions if not region.calls)
        self._costs = [[self._calls[name] * option.seconds for option in options[name]] for name in self._names]
        self._constants = _highest(ranks.gathered(resident_bytes(model, args, kwargs, settings)))
        self._update = max(ranks.gathered(settings.optimizer_needs.transient))
        self._arriving = ArrivingGradients()
        self._gradients_left_out = sum(_gradient_bytes(region.block) for region in self._left_out)
        self._moments: list[Moment] = []
        self._rooms = [
            Room(pool.budget - pool.budget % pool.block, {p: self._copied(name, number) for p, name in enumerate(self._names)})
            for number, pool in enumerate(settings.pools)
        ]
        self._measured: dict[Choice, MeasuredStep] = {}

    def measure_lightest(self) -> Mapping[str, GradientLayouts]:
        """Run the step with the options that retain least; returns how gradients arrive at each region."""
        self._measure(tuple(self._lightest(name) for name in self._names))
        return self._ranks.agreed(self._arriving.layouts)

    def within(self, budget: Budget, stage: Callable[[str], None]) -> RegionSchedule:
        """The schedules of the fastest measured step within ``budget``, after ``measure_lightest``.

        Raises:
            InfeasibleBudgetError: no measured step stays within the budget.
        """
        baseline = max(moment.bytes([0] * len(self._names)) for moment in self._moments)
        limit = self._least() if budget.least else budget.resolve(baseline)
        self._measure_cheapest(limit, stage)
        if not self._fitting(limit):
            self._measure(self._ranks.agreed(self._lowest))
        fitting = self._fitting(limit)
        if not fitting:
            raise self._infeasible(limit, baseline)
        best = min(fitting, key=lambda choice: sum(costs[o] for costs, o in zip(self._costs, choice, strict=True)))
        block = BLOCK if device_of(self._model).type == "cuda" else 1
        inputs = input_signature(self._args, self._kwargs)
        origin = new_origin(
            self._model,
            state_signature(self._model),
            inputs,
            ambient_autocast(),
            "the step that was run",
            self._settings,
            block,
        )
        forms = self._in_blocks(self._schedules(best))
        calls = {name: [self._calls[label] for label in labels] for name, labels in forms.items()}
        return RegionSchedule(
            regions={name: joined(labels) for name, labels in forms.items()},
            calls={name: sum(numbers) for name, numbers in calls.items()},
            form_calls={name: tuple(numbers) for name, numbers in calls.items() if len(numbers) > 1},
            budget=limit,
            peak_bytes=self._peak(best),
            baseline_peak_bytes=baseline,
            constants=self._constants,
            update=self._update,
            origin=replace(origin, training=replace(self._settings.training, shard=shard_count(self._model))),
        )

    def _least(self) -> int:
        """The least peak of the choices that have the lowest one, as predicted and measured."""
        lowest = self._ranks.agreed(self._lowest)
        if lowest not in self._measured:
            self._measure(lowest)
        return min(map(self._peak, self._measured))

    def _lowest(self) -> Choice:
        """The choice with the lowest peak, as predicted."""
        return select_lowest(self._costs, self._moments, rooms=self._rooms)

    def _measure_cheapest(self, limit: int, stage: Callable[[str], None]) -> None:
        """Measure the cheapest choice that should fit, again with what its measurement has shown, until one does."""
        while len(self._measured) < _MOST_MEASUREMENTS:
            choice = self._ranks.agreed(lambda: select(self._costs, self._moments, limit, rooms=self._rooms))
            if choice is None or choice in self._measured:
                return
            stage("Running the step with the schedules chosen")
            self._measure(choice)
            if self._peak(choice) <= limit:
                return

    def _fitting(self, limit: int) -> list[Choice]:
        return [choice for choice in self._measured if self._peak(choice) <= limit]

    def _lightest(self, name: str) -> int:
        """The option that retains least without copies, for which the pools might have no room."""
        options = self._options[name]
        return min(
            (o for o, option in enumerate(options) if not option.copies),
            key=lambda o: (options[o].held, options[o].backward, options[o].seconds),
        )

    def _copied(self, name: str, pool: int) -> list[int]:
        """Bytes in a pool, by its number, for each option of a region, whose calls all wait for their backward at once."""
        return [self._calls[name] * option.pools[pool] for option in self._options[name]]

    def _schedules(self, choice: Choice) -> dict[str, Schedule]:
        schedules = {}
        for name, number in zip(self._names, choice, strict=True):
            step, option = self._steps[name], self._options[name][number]
            graph = _with_pools_for(step.graph, option)
            step = replace(step, graph=graph, settings=replace(step.settings, pools=graph.pools))
            schedule = Schedule(
                graph=graph,
                steps=option.steps,
                budget=0,
                solver="regions",
                status="feasible",
                bound_seconds=graph.seconds,
                origin=step.origin,
            )
            schedule = replace(schedule, budget=schedule.peak_bytes)
            remember_capture(schedule, step)
            schedules[name] = schedule
        return schedules

    def _in_blocks(self, schedules: Mapping[str, Schedule]) -> dict[str, dict[str, Schedule]]:
        """The schedules by label, for each block by its name; the form with the highest peak comes first."""
        blocks: dict[str, dict[str, Schedule]] = {}
        for label, schedule in sorted(schedules.items(), key=lambda item: -item[1].baseline_peak_bytes):
            blocks.setdefault(self._blocks[label], {})[label] = schedule
        return {name: blocks[name] for name in dict.fromkeys(self._blocks.values())}

    def _measure(self, choice: Choice) -> None:
        """Run the step with these options, and add a constraint for each of its intervals."""
        on_this_rank = measure_step(
            self._model,
            self._args,
            self._kwargs,
            self._settings.loss,
            self._in_blocks(self._schedules(choice)),
            replan=_refuse_another_form,
            arriving=self._arriving,
            kept=self._kept,
            accumulate=self._settings.training.accumulate,
            rehearsals=self._rehearsals(),
            disk_folder=self._settings.disk_folder,
        )
        step = highest_of(self._ranks.gathered(on_this_rank))
        self._measured[choice] = step
        constants = sum(self._constants.values()) + self._gradients_left_out
        place = {name: k for k, name in enumerate(self._names)}
        taken = {name: self._options[name][o] for name, o in zip(self._names, choice, strict=True)}
        for interval in step.intervals:
            # By region, bytes of each option above the one that was measured. Other draws may call those left out now.
            changes = {r.label: [option.held for option in self._options[r.label]] for r in self._left_out}
            for name, calls in Counter(interval.holding).items():
                changes[name] = [calls * (option.held - taken[name].held) for option in self._options[name]]
            if interval.kind != "between":
                name, kind = interval.region, interval.kind
                inside = [getattr(option, kind) - getattr(taken[name], kind) for option in self._options[name]]
                changes[name] = [a + b for a, b in zip(changes.get(name, [0] * len(inside)), inside, strict=True)]
            self._moments.append(Moment(constants + interval.peak, {place[name]: of for name, of in changes.items()}))
        self._moments.append(Moment(constants + step.held + self._update, {}))

    def _rehearsals(self) -> int:
        """Steps to run before the measured one.

        On a GPU, libraries allocate workspaces once and keep them. DDP rebuilds its buckets when its first step has shown it
        their order.
        """
        if not self._measured and parallel_wrapper(self._model) is not None:
            return 2
        return 1 if device_of(self._model).type == "cuda" else 0

    def _peak(self, choice: Choice) -> int:
        """Measured bytes, and those that the regions add which random draws have left out of the measured step."""
        step, option_of = self._measured[choice], dict(zip(self._names, choice, strict=True))
        retained = sum(self._options[region.label][option_of[region.label]].held for region in self._left_out)
        constants = sum(self._constants.values()) + self._gradients_left_out
        return constants + max(step.highest.peak + retained, step.held + self._update)

    def _infeasible(self, limit: int, baseline: int) -> InfeasibleBudgetError:
        lowest = min(self._measured, key=self._peak)
        minimum, highest = self._peak(lowest), self._measured[lowest].highest
        where = f"the {highest.kind} of {highest.region}" if highest.region else "the code between the regions"
        constants = ", ".join(f"{kind} {size:,}" for kind, size in self._constants.items() if size)
        fixed = sum(size for kind, size in self._constants.items() if kind != "inputs")
        helps = "make the batch smaller" if limit > fixed else "divide the model over ranks (a smaller batch does not help)"
        return InfeasibleBudgetError(
            f"no choice of schedules for the {len(self._names)} regions was found within {limit:,} bytes. The least peak that "
            f"was measured is {minimum:,} bytes ({format_percent(minimum / baseline)} of the peak without recomputation), in "
            f"{where}: {constants}, and {minimum - sum(self._constants.values()):,} for gradients, activations and what runs. "
            f'Raise the budget to that (budget="min"), {helps}, or plan more of the model by regions.',
            budget=limit,
            minimum=minimum,
            bottleneck=highest.region or "between the regions",
            proven=False,
        )


def _with_pools_for(graph: Graph, option: RegionOption) -> Graph:
    """``graph`` with the room in each pool that ``option`` takes; without pools if it copies nothing."""
    if not option.copies:
        return graph.without_transfers
    pools = [replace(pool, budget=taken) for pool, taken in zip(graph.pools, option.pools, strict=True)]
    return graph.with_transfers(pools, graph.copied)


def _refuse_another_form(_model: nn.Module, args: Any, kwargs: Any, like: Schedule) -> Schedule:
    raise RegionError(
        f"a region ({like.origin.model}) was captured with inputs of the form {dict(like.origin.inputs)}, and another run of "
        f"the step calls it with {dict(input_signature(args, kwargs))}: the step changes from run to run and cannot be "
        "planned. Give inputs with which it does not, or leave the region out",
        names=(),
    )


def _gradient_bytes(block: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in block.parameters() if p.requires_grad)


def _highest(ranks: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {kind: max(resident[kind] for resident in ranks) for kind in ranks[0]}
