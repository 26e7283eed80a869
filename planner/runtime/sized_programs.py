"""Programs for calls whose inputs have other sizes: the step is captured once for all of them.

A schedule is planned for some sizes, its *level*. Smaller sizes run the level's code with their own numbers. Each storage is
then at most as large as the level's, so the budget holds for them too, provided that a kernel's workspace does not grow where
its tensors shrink. A new size costs milliseconds, and a few levels serve all sizes.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import nn

from remat_planner.planner.errors import InfeasibleBudgetError
from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning import (
    BoundSignature,
    CallNow,
    Numbers,
    OneSizeError,
    capture_sized_step,
    input_signature,
    settings_of,
)
from remat_planner.planner.runtime.numbered_programs import NumberedPrograms
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.planner.runtime.step_programs import NO_EXTRA_TIME, PlanLevel, StepPrograms
from remat_planner.schedules import Schedule
from remat_planner.tracer import CaptureError

_log = logging.getLogger("remat_planner")

_MOST_STEPS = 4
"""Captures with symbolic sizes: a model that takes other branches for other sizes has several."""
_LEAST_BATCH = 2
"""Operators broadcast a smaller size, or skip it."""


class SizedPrograms:
    """Finds programs for calls that differ from known ones in sizes of their inputs alone.

    Args:
        model: the model itself, which stays eager.
        schedule: the plan.
        loss: the loss of the plan; None for the default one.
        plan_level: plans for some sizes.
        numbered: knows which numbers change from call to call.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        loss: Callable[..., torch.Tensor] | None,
        plan_level: PlanLevel,
        numbered: NumberedPrograms,
    ) -> None:
        self._model = model
        self._schedule = schedule
        self._settings = replace(settings_of(schedule), loss=loss)
        self._plan_level = plan_level
        self._numbered = numbered
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
            if dims and self._is_of_model_now(call, signature):
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
            programs = self._captured(call, program, self._numbered.all_seen(call))
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

    def _is_of_model_now(self, call: CallNow, signature: BoundSignature) -> bool:
        """Whether the step of ``signature`` is the model's now but for the inputs, and for numbers that change."""
        changed = self._numbered.changed(call, signature)
        if changed is None:
            return signature.is_of_model_now(call.autocast, call.switches)
        joint = signature.joint
        if signature.state() is None or (call.autocast, call.switches) != (joint.autocast, joint.switches):
            return False
        self._numbered.see(changed)
        return True

    def _captured(self, call: CallNow, known: PlannedProgram, numbers: Numbers) -> StepPrograms:
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
        of_call = self._model, call.args, call.kwargs, dims, symbols, along, known.joint, self._settings
        try:
            step = capture_sized_step(*of_call, numbers=numbers)
        except OneSizeError:
            if not any(numbers):
                raise
            step = capture_sized_step(*of_call)
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
        largest: list[float] = [*map(max, here, there), *step.known[len(dims) :]]
        above = programs.next_sizes(largest)
        if above is not None:
            with suppress(InfeasibleBudgetError):
                programs.add_level(above, known.schedule.overhead + NO_EXTRA_TIME)
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
