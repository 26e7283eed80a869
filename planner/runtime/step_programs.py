"""The programs of one step that is captured for many sizes: a level's code runs smaller sizes with their own numbers."""

from __future__ import annotations

import logging
import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from remat_planner.planner.errors import InfeasibleBudgetError
from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning import BoundSignature, CallNow, SizedStep, Step
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.schedules import Schedule

_log = logging.getLogger("remat_planner")

PlanLevel = Callable[[Step, Schedule, float], Schedule]
"""``plan_level(step, like, enough)``: a schedule of a step for other sizes, with the budget of ``like``. A known one is taken
without a search if its extra time is at most ``enough``, as a fraction of the step without recomputation."""

NO_EXTRA_TIME = 0.01
"""As a fraction of the step."""
_MOST_LEVELS = 8
_LEAST_SHARE = 0.6
"""Of the bytes of a level: for a step with fewer, another level may recompute less."""
_HEADROOM = 1.25
"""Such a level is for sizes that are larger by this factor."""
_NEXT = 4
"""Sizes above the largest one so far that are tried, where the step is another one for that size by chance."""


@dataclass(frozen=True)
class _Level:
    """A program for the largest sizes that it runs with.

    Attributes:
        sizes: these.
        storages: bytes of each storage of the step.
        program: the program.
        begin: when it was planned, in seconds of ``time.perf_counter``.
        took: seconds that this took.
    """

    sizes: tuple[Any, ...]
    storages: list[int]
    program: PlannedProgram
    begin: float
    took: float

    def covers(self, storages: Sequence[int]) -> bool:
        """Whether a step with storages of these bytes runs within the budget by this program."""
        return all(map(operator.ge, self.storages, storages))

    @property
    def extra_time(self) -> float:
        """Time for recomputation, as a fraction of the step."""
        return self.program.schedule.overhead

    def has_cost_a_plan(self) -> bool:
        """Whether recomputation may have taken as long since the level was planned as planning another one takes."""
        return (time.perf_counter() - self.begin) * self.extra_time >= self.took


class StepPrograms:
    """The programs of one step that is captured for many sizes.

    Args:
        model: the model.
        step: the step.
        like: a schedule for other sizes.
        plan_level: plans for some sizes; None where the levels that are adopted are for all sizes.
    """

    def __init__(self, model: nn.Module, step: SizedStep, like: Schedule, plan_level: PlanLevel | None = None) -> None:
        self.step = step
        self._model = model
        self._like = like
        self._plan_level = plan_level
        self._levels: list[_Level] = []
        self._signature: BoundSignature | None = None

    def bound_for(self, call: CallNow) -> tuple[PlannedProgram, BoundSignature] | None:
        """A program for a call, and its signature; None where the step is another one.

        Raises:
            InfeasibleBudgetError: the budget is too small for these sizes.
        """
        sized, sizes = self.step.joint, self._sizes(call)
        if sizes is None or not sized.holds(sizes):
            return None
        if self._signature is None:
            written = self._levels[0].program.joint if self._levels else self.step.written
            self._signature = BoundSignature(written or sized.at(sizes), self._model)
        numbers = sized.numbers(sizes)
        joint = sized.for_call(self._signature.joint, numbers)
        signature = self._signature.of_sizes(joint, sized.forms_with("input_nodes", numbers))
        if not signature.fits(call.leaves, call.tree, call.autocast, call.switches):
            return None
        level = self._level_for(sizes, sized.storage_bytes(numbers))
        if level is None:
            return None
        return level.program.with_sizes(sized, numbers), signature

    def differs_by_chance(self, call: CallNow) -> bool:
        """Whether the step of ``call`` is another one for these sizes alone."""
        sized, sizes = self.step.joint, self._sizes(call)
        return sizes is not None and not sized.holds(sizes) and sized.holds_nearby(sizes)

    def _sizes(self, call: CallNow) -> tuple[Any, ...] | None:
        tensors = [leaf for leaf in call.leaves if isinstance(leaf, torch.Tensor)]
        dims = self.step.dims
        is_alike = all(index < len(tensors) and dim < tensors[index].dim() for index, dim in dims)
        numbers = self.step.numbers_of(self._model, call.leaves)
        return (*self.step.sizes_of(tensors), *numbers) if is_alike and numbers is not None else None

    def add_level(self, sizes: tuple[float, ...], enough: float) -> _Level:
        """Plan for these sizes; a schedule with ``enough`` extra time, as a fraction of the step, is as good as any.

        Raises:
            InfeasibleBudgetError: the budget is too small for them.
        """
        begin, joint = time.perf_counter(), self.step.joint
        assert self._plan_level is not None
        step = self.step.at(self._model, sizes)
        try:
            schedule = self._plan_level(step, self._like, enough)
        except InfeasibleBudgetError as error:
            raise error.of_form(step.origin.inputs, "") from None
        program = PlannedProgram.of(schedule, step.joint)
        end = time.perf_counter()
        _log.info("planned for inputs up to %s in %.1f s", format_inputs(step.origin.inputs), end - begin)
        return self._with_level(_Level(sizes, joint.storage_bytes(joint.numbers(sizes)), program, end, end - begin))

    def adopt(self, schedule: Schedule, sizes: tuple[float, ...]) -> None:
        """Take ``schedule``, which is planned for these sizes, as a level."""
        begin, joint = time.perf_counter(), self.step.joint
        program = PlannedProgram.of(schedule, self.step.written_for(sizes))
        end = time.perf_counter()
        self._with_level(_Level(sizes, joint.storage_bytes(joint.numbers(sizes)), program, end, end - begin))

    def _with_level(self, level: _Level) -> _Level:
        self._levels = [level, *self._levels[: _MOST_LEVELS - 1]]
        return level

    def _level_for(self, sizes: tuple[Any, ...], storages: list[int]) -> _Level | None:
        covering = [level for level in self._levels if level.covers(storages)]
        if not covering:
            return None if self._plan_level is None else self.add_level(sizes, self._like.overhead + NO_EXTRA_TIME)
        best = min(covering, key=lambda level: (level.extra_time, sum(level.storages)))
        if self._plan_level is None or best.extra_time <= NO_EXTRA_TIME or not best.has_cost_a_plan():
            return best
        least = min(covering, key=lambda level: sum(level.storages))
        if sum(storages) >= _LEAST_SHARE * sum(least.storages):
            return best
        count = len(self.step.dims)
        of_dims = zip(sizes[:count], least.sizes, strict=False)
        wanted = (*(min(math.ceil(_HEADROOM * size), largest) for size, largest in of_dims), *sizes[count:])
        return self.add_level(self.next_sizes(wanted) or sizes, NO_EXTRA_TIME)

    def next_sizes(self, sizes: Sequence[float]) -> tuple[float, ...] | None:
        """These sizes or the next larger ones for which the step is the captured one; None where it is for none of them."""
        count = len(self.step.dims)
        larger = ((*(size + k for size in sizes[:count]), *sizes[count:]) for k in range(_NEXT))
        return next((candidate for candidate in larger if self.step.joint.holds(candidate)), None)
