"""Programs for calls whose inputs have other sizes: the step is captured once for all of them.

A schedule is planned for some sizes, its *level*. Smaller sizes run the level's code with their own numbers. Each storage is
then at most as large as the level's, so the budget holds for them too, provided that a kernel's workspace does not grow where
its tensors shrink. A new size costs milliseconds, and a few levels serve all sizes.
"""

from __future__ import annotations

import logging
import math
import operator
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from remat_planner.planner.errors import InfeasibleBudgetError
from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning import (
    BoundSignature,
    CallNow,
    OneSizeError,
    SizedStep,
    Step,
    capture_sized_step,
    input_signature,
    settings_of,
)
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.schedules import Schedule
from remat_planner.tracer import CaptureError

_log = logging.getLogger("remat_planner")

PlanLevel = Callable[[Step, Schedule, float], Schedule]
"""``plan_level(step, like, enough)``: a schedule of a step for other sizes, with the budget of ``like``. A known one is taken
without a search if its extra time is at most ``enough``, as a fraction of the step without recomputation."""

_MOST_STEPS = 4
"""Captures with symbolic sizes: a model that takes other branches for other sizes has several."""
_MOST_LEVELS = 8
_LEAST_SHARE = 0.6
"""Of the bytes of a level: for a step with fewer, another level may recompute less."""
_HEADROOM = 1.25
"""Such a level is for sizes that are larger by this factor."""
_NO_EXTRA_TIME = 0.01
"""As a fraction of the step."""
_LEAST_BATCH = 2
"""Operators broadcast a smaller size, or skip it."""
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

    def add_level(self, sizes: tuple[int, ...], enough: float) -> _Level:
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

    def _level_for(self, sizes: tuple[int, ...], storages: list[int]) -> _Level | None:
        covering = [level for level in self._levels if level.covers(storages)]
        if not covering:
            return None if self._plan_level is None else self.add_level(sizes, self._like.overhead + _NO_EXTRA_TIME)
        best = min(covering, key=lambda level: (level.extra_time, sum(level.storages)))
        if self._plan_level is None or best.extra_time <= _NO_EXTRA_TIME or not best.has_cost_a_plan():
            return best
        least = min(covering, key=lambda level: sum(level.storages))
        if sum(storages) >= _LEAST_SHARE * sum(least.storages):
            return best
        wanted = tuple(min(math.ceil(_HEADROOM * size), largest) for size, largest in zip(sizes, least.sizes, strict=True))
        return self.add_level(self.next_sizes(wanted) or sizes, _NO_EXTRA_TIME)

    def next_sizes(self, sizes: Sequence[int]) -> tuple[int, ...] | None:
        """These sizes or the next larger ones for which the step is the captured one; None where it is for none of them."""
        larger = (tuple(size + k for size in sizes) for k in range(_NEXT))
        return next((candidate for candidate in larger if self.step.joint.holds(candidate)), None)


class SizedPrograms:
    """Finds programs for calls that differ from known ones in sizes of their inputs alone.

    Args:
        model: the model itself, which stays eager.
        schedule: the plan.
        loss: the loss of the plan; None for the default one.
        plan_level: plans for some sizes.
    """

    def __init__(
        self, model: nn.Module, schedule: Schedule, loss: Callable[..., torch.Tensor] | None, plan_level: PlanLevel
    ) -> None:
        self._model = model
        self._schedule = schedule
        self._settings = replace(settings_of(schedule), loss=loss)
        self._plan_level = plan_level
        self._steps: list[StepPrograms] = []
        self._captures = 0
        self._dims: set[tuple[int, int]] = set()

    def bound_for(
        self, call: CallNow, known: Sequence[tuple[PlannedProgram, BoundSignature]]
    ) -> tuple[PlannedProgram, BoundSignature] | None:
        """A program for a call that differs from one of the ``known`` ones in sizes alone, and its signature; else None.

        Raises:
            InfeasibleBudgetError: the budget is too small for these sizes.
        """
        for programs in self._steps:
            bound = programs.bound_for(call)
            if bound is not None:
                return bound
        like = None
        for program, signature in known:
            dims = None if program.is_larger else signature.differing_sizes(call.leaves, call.tree)
            if dims and signature.is_of_model_now(call.autocast, call.switches):
                like = program, dims
                break
        if like is None or self._captures >= _MOST_STEPS or any(programs.differs_by_chance(call) for programs in self._steps):
            return None
        program, dims = like
        if any(call.leaves[program.joint.input_leaves[index]].shape[dim] < 2 for index, dim in self._dims.union(dims or ())):
            return None  # operators broadcast such a size, or skip it
        self._captures += 1
        self._dims.update(dims or ())
        try:
            programs = self._captured(call, program)
        except (OneSizeError, CaptureError) as error:
            if isinstance(error, OneSizeError) and error.by_chance and self._captures < _MOST_STEPS:
                _log.info("the step is planned for these sizes alone: %s", error)
                return None
            self._captures = _MOST_STEPS
            _log.warning(
                "the step of %s is captured and planned anew for each size of its inputs that comes, which takes seconds each: "
                "it cannot be captured with symbols for the sizes (%s)",
                type(self._model).__name__,
                error,
            )
            return None
        self._steps.insert(0, programs)
        return programs.bound_for(call)

    def _captured(self, call: CallNow, known: PlannedProgram) -> StepPrograms:
        """Capture the step of ``call`` for all sizes in which calls have differed so far.

        Raises:
            OneSizeError: it has to be captured for each size.
            CaptureError: it cannot be captured.
        """
        inputs = [leaf for leaf in call.leaves if isinstance(leaf, torch.Tensor)]
        before = [node.meta["val"] for node in known.joint.input_nodes]
        along = _batch(inputs) - self._dims
        dims = tuple(sorted(self._dims | along))
        symbols = _symbols(dims, (inputs, before))
        step = capture_sized_step(self._model, call.args, call.kwargs, dims, symbols, along, known.joint, self._settings)
        _log.warning(
            "inputs differ from what was planned (%s): captured once for all sizes of them, and planned within the same budget "
            "of %s bytes. Smaller sizes run the schedules of larger ones",
            format_inputs(input_signature(call.args, call.kwargs)),
            f"{self._schedule.budget:,}",
        )
        programs = StepPrograms(self._model, step, known.schedule, self._plan_level)
        here, there = step.sizes_of(inputs), step.sizes_of(before)
        if step.known == there:
            programs.adopt(known.schedule, there)
            if all(map(operator.le, here, there)):
                return programs
        above = programs.next_sizes(tuple(map(max, here, there)))
        if above is not None:
            with suppress(InfeasibleBudgetError):
                programs.add_level(above, known.schedule.overhead + _NO_EXTRA_TIME)
        return programs


def _symbols(dims: Sequence[tuple[int, int]], calls: Sequence[Sequence[torch.Tensor]]) -> list[int]:
    """For each of ``dims`` the number of its symbol: sizes that are equal in each of the calls are one."""
    sizes = [tuple(tensors[index].shape[dim] for tensors in calls) for index, dim in dims]
    return [sizes.index(of_dim) for of_dim in sizes]


def _batch(tensors: Sequence[torch.Tensor]) -> set[tuple[int, int]]:
    """The first dimension of all tensors where they have one size there: the next batch that differs may be a smaller one."""
    if any(type(tensor) is not torch.Tensor for tensor in tensors):
        return set()
    batches = {tensor.shape[0] for tensor in tensors if tensor.dim()}
    alone = len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)
    whole = all(t.is_contiguous() and t.untyped_storage().nbytes() == t.nbytes for t in tensors)
    if len(batches) != 1 or min(batches) < _LEAST_BATCH or not (alone and whole):
        return set()
    return {(index, 0) for index, tensor in enumerate(tensors) if tensor.dim()}
