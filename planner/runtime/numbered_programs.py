"""Programs for calls that differ in numbers, among the inputs or in attributes of modules: captured once for all values.

The share of a mixture, the weight of a loss or a temperature may be another one in each step. They are symbols of the capture,
as sizes are. What the forward computes from them is computed again for each step, in its order. A branch on one is a condition.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from remat_planner.planner.planning import (
    BoundSignature,
    CallNow,
    Numbers,
    OneSizeError,
    SizedStep,
    capture_numbers,
    settings_of,
)
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.planner.runtime.same_step import differ_in_numbers_only
from remat_planner.planner.runtime.step_programs import StepPrograms
from remat_planner.schedules import Schedule
from remat_planner.tracer import CaptureError
from remat_planner.tracer.python_state import attributes_at

_log = logging.getLogger("remat_planner")

_MOST_CAPTURES = 8
"""With symbols for numbers, also in vain: a model that takes other branches for other numbers has several."""


class NumberedPrograms:
    """Finds programs for calls that differ from known ones in numbers alone.

    Args:
        model: the model itself, which stays eager.
        schedule: the plan.
        loss: the loss of the plan; None for the default one.
    """

    def __init__(self, model: nn.Module, schedule: Schedule, loss: Callable[..., torch.Tensor] | None) -> None:
        self._model = model
        self._schedule = schedule
        self._loss = loss
        self._steps: list[StepPrograms] = []
        self._captures = 0
        self._seen: set[Any] = set()
        self._refused: set[Numbers] = set()

    def bound_for(self, call: CallNow) -> tuple[PlannedProgram, BoundSignature] | None:
        """A program for a call by a capture that is there, and its signature; else None."""
        found = (programs.bound_for(call) for programs in self._steps)
        return next((bound for bound in found if bound is not None), None)

    def captured_for(
        self, call: CallNow, alike: Sequence[tuple[PlannedProgram, BoundSignature]]
    ) -> tuple[PlannedProgram, BoundSignature] | None:
        """A program for a call that differs from known ones in numbers, from the second time on that these do; else None.

        ``alike`` are the known programs for tensors of these forms, the one that was used last first.
        """
        changed = self.changed(call, alike[0][1])
        if changed is None or not any(changed):
            return None
        if not self._seen.issuperset((*changed.leaves, *changed.attributes)):
            self.see(changed)
            return None
        for numbers in dict.fromkeys((self.all_seen(call), changed)):
            if numbers not in self._refused and self._captures < _MOST_CAPTURES:
                self._captures += 1
                step = self._captured(call, numbers)
                if step is not None:
                    return self._by_known_schedule(step, [program for program, _ in alike], call)
        return None

    def _captured(self, call: CallNow, numbers: Numbers) -> SizedStep | None:
        """The step of ``call`` for all values of ``numbers``; None where it has to be captured for each."""
        settings = replace(settings_of(self._schedule), loss=self._loss)
        try:
            return capture_numbers(self._model, call.args, call.kwargs, numbers, settings)
        except (OneSizeError, CaptureError) as error:
            _log.info("the step is captured anew for each value of these numbers: %s", error)
            self._refused.add(numbers)
            return None

    def _by_known_schedule(
        self, step: SizedStep, known: Sequence[PlannedProgram], call: CallNow
    ) -> tuple[PlannedProgram, BoundSignature] | None:
        """The program of ``step`` for a call by a known schedule; None where it is another step, which has to be planned."""
        written = step.written_for(step.known)
        for program in known:
            if differ_in_numbers_only(written, program.joint):
                programs = StepPrograms(self._model, step, program.schedule)
                programs.adopt(program.schedule, step.known)
                self._steps.insert(0, programs)
                return programs.bound_for(call)
        return None

    def all_seen(self, call: CallNow) -> Numbers:
        """All numbers that have been seen to change, and are numbers in this call."""
        attributes = [seen for seen in self._seen if isinstance(seen, tuple)]
        return Numbers(
            tuple(sorted(k for k in self._seen if isinstance(k, int) and k < len(call.leaves) and _is_number(call.leaves[k]))),
            tuple(sorted(place for place in attributes if self._is_attribute(*place))),
        )

    def _is_attribute(self, path: str, name: str) -> bool:
        return _is_number(attributes_at(self._model, path).get(name))

    def see(self, numbers: Numbers) -> None:
        """These have changed."""
        self._seen.update((*numbers.leaves, *numbers.attributes))

    def changed(self, call: CallNow, signature: BoundSignature) -> Numbers | None:
        """The numbers in which the inputs and the Python state of a call differ; None where they differ in something else."""
        inputs = signature.changed_inputs(call.leaves)
        if not all(type(before) is float and _is_number(call.leaves[position]) for position, before in inputs):
            return None
        attributes = []
        for changed in signature.changed_python_state():
            path, _, name = changed.rpartition(".")
            if not self._is_attribute(path, name):
                return None
            attributes.append((path, name))
        return Numbers(tuple(position for position, _ in inputs), tuple(sorted(attributes)))


def _is_number(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)
