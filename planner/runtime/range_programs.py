"""Programs for calls whose sizes lie in the ranges of the plan: nothing is planned for them while the model trains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from math import prod

import torch
from torch import nn

from remat_planner.planner.planning import (
    BoundSignature,
    CallNow,
    OneSizeError,
    SizedStep,
    capture_ranges,
    remembered_sized,
    settings_of,
)
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.planner.runtime.recapture import is_step_of, stand_ins
from remat_planner.planner.runtime.step_programs import StepPrograms
from remat_planner.schedules import Schedule, SizeRange, in_words, is_at_largest
from remat_planner.tracer import CaptureError, capture

_log = logging.getLogger("remat_planner")

Loss = Callable[..., torch.Tensor]


class RangePrograms:
    """Finds programs for sizes that are planned.

    Args:
        model: the model itself, which stays eager.
        schedule: the plan.
        loss: the loss of the plan; None for the default one.
    """

    def __init__(self, model: nn.Module, schedule: Schedule, loss: Loss | None) -> None:
        parts: dict[tuple[tuple[int, int], ...], list[Schedule]] = {}
        for form in schedule.forms:
            if form.origin.ranges:
                parts.setdefault(tuple(of.bounds for of in form.origin.ranges), []).append(form)
        # Of sizes that two parts have, the smaller part is for those for which the step of the larger one is another.
        smallest_first = sorted(
            parts.values(), key=lambda forms: prod(of.largest - of.least + 1 for of in forms[0].origin.ranges)
        )
        self._parts = [_Part(model, forms, loss) for forms in smallest_first]

    def bound_for(self, call: CallNow) -> tuple[PlannedProgram, BoundSignature] | None:
        """A program for a call, and its signature; None where its sizes lie in no range, or its step is another one."""
        tensors = [leaf for leaf in call.leaves if isinstance(leaf, torch.Tensor)]
        found = (part.bound_for(call) for part in self._parts if part.has(tensors))
        return next((bound for bound in found if bound is not None), None)


class _Part:
    """The programs for some of the sizes, with the same step.

    Args:
        model: the model.
        forms: the schedules, for some of these sizes each.
        loss: the loss of the plan.
    """

    def __init__(self, model: nn.Module, forms: list[Schedule], loss: Loss | None) -> None:
        self._model = model
        self._forms = forms
        self._loss = loss
        self._programs: StepPrograms | None = None
        self._is_refused = False

    @property
    def _ranges(self) -> tuple[SizeRange, ...]:
        return self._forms[0].origin.ranges

    def has(self, tensors: list[torch.Tensor]) -> bool:
        """Whether the sizes of a call with these tensor inputs are among those of this part."""
        for of in self._ranges:
            if any(index >= len(tensors) or dim >= tensors[index].dim() for index, dim in of.dims):
                return False
            if not all(of.least <= tensors[index].shape[dim] <= of.largest for index, dim in of.dims):
                return False
        return True

    def bound_for(self, call: CallNow) -> tuple[PlannedProgram, BoundSignature] | None:
        """A program for a call, and its signature; None where its step is another one."""
        if self._programs is None and not self._is_refused:
            self._programs = self._made(call)
            self._is_refused = self._programs is None
        return None if self._programs is None else self._programs.bound_for(call)

    def _made(self, call: CallNow) -> StepPrograms | None:
        """The programs, captured for this call where the schedules come from a file."""
        largest = next(form for form in self._forms if is_at_largest(form.origin.ranges))
        step = remembered_sized(largest)
        if step is None or step.written is None or step.written.model is not self._model:
            try:
                step = self._captured(call, largest)
            except (OneSizeError, CaptureError) as error:
                _log.warning("%s is planned, and cannot be used here: %s", in_words(self._ranges), error)
                return None
        programs = StepPrograms(self._model, step, largest)
        for form in self._forms:
            programs.adopt(form, step.sizes_for({place: of.planned for of in form.origin.ranges for place in of.dims}))
        return programs

    def _captured(self, call: CallNow, largest: Schedule) -> SizedStep:
        """The step of this call for all sizes of the part, after making sure that it is the planned one.

        Raises:
            OneSizeError: it is another one.
            CaptureError: it cannot be captured.
        """
        settings = replace(settings_of(largest), loss=self._loss)
        varying = [of for of in self._ranges if of.least < of.largest]
        at_largest = {place: of.largest for of in varying for place in of.dims}

        def captured(loss: Loss | None) -> SizedStep:
            known = capture(self._model, call.args, call.kwargs, loss=loss)
            return capture_ranges(self._model, call.args, call.kwargs, varying, known, replace(settings, loss=loss))

        step = captured(self._loss)
        joint = step.joint.at(step.sizes_for(at_largest))
        if is_step_of(largest, joint):
            return step
        for stand_in in stand_ins(largest.graph, joint) if self._loss is None else ():
            step = captured(stand_in)
            if is_step_of(largest, step.joint.at(step.sizes_for(at_largest))):
                return step
        raise OneSizeError("the model runs another step on these inputs than the one of the schedule")
