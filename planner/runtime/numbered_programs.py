"""Programs for calls that differ in numbers among their inputs: the step is captured once for all of them.

A share of a mixture or a weight of a loss is another one in each step. The numbers are symbols of the capture, as sizes are, and
what the forward computes from them is computed again for each step, in its order. A branch on a number is a condition.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from remat_planner.planner.planning import BoundSignature, CallNow, OneSizeError, capture_numbers, settings_of
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.planner.runtime.same_step import differ_in_numbers_only
from remat_planner.planner.runtime.sized_programs import StepPrograms
from remat_planner.tracer import CaptureError

_log = logging.getLogger("remat_planner")

_MOST_STEPS = 4
"""Captures with symbols: a model that takes other branches for other numbers has several."""


class NumberedPrograms:
    """Finds programs for calls that differ from known ones in numbers among their inputs alone.

    Args:
        model: the model itself, which stays eager.
        loss: the loss of the plan; None for the default one.
    """

    def __init__(self, model: nn.Module, loss: Callable[..., torch.Tensor] | None) -> None:
        self._model = model
        self._loss = loss
        self._steps: list[StepPrograms] = []
        self._captures = 0
        self._differed: set[int] = set()

    def bound_for(self, call: CallNow) -> tuple[PlannedProgram, BoundSignature] | None:
        """A program for a call by a capture that is there, and its signature; else None."""
        found = (programs.bound_for(call) for programs in self._steps)
        return next((bound for bound in found if bound is not None), None)

    def captured_for(
        self, call: CallNow, program: PlannedProgram, signature: BoundSignature
    ) -> tuple[PlannedProgram, BoundSignature] | None:
        """A program for a call that differs from ``program`` in numbers, from the second time on that these do; else None."""
        changed = signature.changed_inputs(call.leaves)
        numbers = sorted(position for position, _ in changed)
        is_about_numbers = all(
            type(before) is type(call.leaves[k]) is float and math.isfinite(call.leaves[k]) for k, before in changed
        )
        if not changed or not is_about_numbers or not signature.is_of_model_now(call.autocast, call.switches):
            return None
        if not self._differed.issuperset(numbers):
            self._differed.update(numbers)
            return None
        if self._captures == _MOST_STEPS:
            return None
        self._captures += 1
        try:
            step = capture_numbers(
                self._model,
                call.args,
                call.kwargs,
                sorted(self._differed),
                replace(settings_of(program.schedule), loss=self._loss),
            )
        except (OneSizeError, CaptureError) as error:
            _log.info("the step is captured anew for each number that it is called with: %s", error)
            self._captures = _MOST_STEPS
            return None
        if step.written is None or not differ_in_numbers_only(step.written, program.joint):
            return None
        programs = StepPrograms(self._model, step, program.schedule)
        programs.adopt(program.schedule, step.known)
        self._steps.insert(0, programs)
        return programs.bound_for(call)
