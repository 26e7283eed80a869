"""Does the planned module train with eager's bits within the plan's bytes? Both are run, compared and measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from remat_planner.planner.apply import (
    apply_schedule,
    compiler_of,
    is_applied,
    planned_call,
    refuse_compiled_for,
    remove_schedule,
    replan_like,
)
from remat_planner.planner.distributed import runs_to_measure_peak
from remat_planner.planner.errors import EagerStepError, MissingGradientError
from remat_planner.planner.measurement import (
    FilledOnce,
    KeptState,
    Loss,
    StepTimes,
    ToleranceCheck,
    Verification,
    compared_state,
    detached,
    device_of,
    kept_copy,
    measure_peak,
    one_step,
    run_backward,
    same_value,
    seconds_of,
    state_restored,
    times_in_turn,
    update_parameters,
)
from remat_planner.planner.planning import planned_form, settings_of
from remat_planner.planner.regions import planned_regions, without_regions
from remat_planner.planner.runtime import is_planned_module, unplanned_on_purpose
from remat_planner.planner.training_state import beyond_one_process
from remat_planner.schedules import RegionSchedule, Schedule, StaleScheduleError, TrainingState, TrainingStateError
from remat_planner.tracer.costs import MEASURE
from remat_planner.tracer.joint import tensor_inputs
from remat_planner.tracer.python_state import Snapshot, argument_starts
from remat_planner.tracer.record import loss_of_step

_STEPS = 3
"""Training steps that are compared. The second starts from the state that the first one left, and adds to its gradients. Before
the last, the parameters change as by an optimizer, and gradients are cleared: a value kept from an earlier step shows then. In
the last, a gradient arrives at one output only, where there is no loss: parameters that it does not reach get none. Where the
plan refuses that by name, one arrives at each output there too."""

_EXTRA_EAGER_RUNS = 8
"""Further runs of eager at most, once it is seen to be nondeterministic: a tensor may be equal in the first two by chance."""


_MISSING = "not there"
_Named = tuple[str, Any]


def verify(
    model: nn.Module,
    schedule: Schedule | RegionSchedule,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Loss | None = None,
    disk_folder: str | Path | None = None,
) -> Verification:
    """Run three training steps of ``model`` in eager, twice, and by ``schedule``, and compare; then measure the peak of a
    planned step.

    Compared are loss, outputs, which gradients there are and their values, parameters, buffers, inputs, the containers and
    objects that the forward is given, Python state that its code can reach (attributes, globals, variables around functions),
    and the states of random generators. What eager itself does not repeat is left out, and named.

    A model that was applied with a compiler is checked as it then runs: its bits may differ from eager's, which is no fault
    while ``close`` is true, and its peak may differ from the predicted one.

    So is a plan whose ``graph.inexact`` says how it rounds otherwise: it is as promised while ``close`` is true.

    All that is compared is left as it was; copies of it are kept on the host meanwhile.

    Args:
        model: the model that the schedule was planned for, planned or not.
        schedule: the plan to check; a plan for several forms of input is checked for the form of these inputs.
        args: positional inputs.
        kwargs: named inputs.
        loss: output -> scalar, as given to ``plan``; needed only if the schedule comes from a file and was planned with one.
        disk_folder: for a schedule that copies activations to a disk, as in ``apply_schedule``.

    Raises:
        OffloadError: what the schedule copies to cannot serve the model's device, or has no room.
        schedules.StaleScheduleError: the schedule is for another model, or for no inputs of this form.
        EagerStepError: the model fails without the schedule.
        tracer.CaptureError: the model is compiled.
        TrainingStateError: the schedule is for shards, or for gradients of another dtype, which one process does not have.
    """
    if isinstance(schedule, Schedule):
        _refuse_state_beyond_one_process(schedule)
    refuse_compiled_for(model, schedule)
    compiler = compiler_of(model)
    kwargs = dict(kwargs or {})
    if loss is None and isinstance(schedule, Schedule):
        loss = settings_of(schedule).loss
    with without_regions(model), unplanned_on_purpose(model):
        model = remove_schedule(model) if is_applied(model) else model
        form = planned_form(model, schedule, args, kwargs)
        with state_restored(model, args, kwargs, others=() if loss is None else (loss,)) as state:
            steps = _Steps(model, args, kwargs, loss, state)
            try:
                planned, comparison = _compared(steps, lambda: _applied(steps, schedule, compiler, disk_folder))
            except MissingGradientError:  # of the last step, whose backward is one that no loop may need
                if is_applied(model):
                    remove_schedule(model)
                steps = _Steps(model, args, kwargs, loss, state, at_first_only=False)
                planned, comparison = _compared(steps, lambda: _applied(steps, schedule, compiler, disk_folder))
            peak = steps.peak(planned, schedule.origin.training)
            times = (
                steps.times(planned, (form.seconds, form.baseline_seconds))
                if isinstance(form, Schedule) and form.origin.costs == MEASURE
                else None
            )
    constant, predicted = _planned_bytes(form)
    return Verification(
        identical=not comparison.differences,
        measured_peak_bytes=constant + peak,
        predicted_peak_bytes=predicted,
        budget_bytes=schedule.budget,
        differences=comparison.differences,
        nondeterministic=comparison.nondeterministic,
        compiler=compiler,
        largest_difference=comparison.largest_difference,
        close=comparison.close,
        inexact=form.graph.inexact if isinstance(form, Schedule) else (),
        pool_bytes=schedule.pool_peak_bytes if isinstance(schedule, RegionSchedule) else _pool_bytes(planned),
        times=times,
    )


@dataclass
class _Steps:
    """Training steps on the same inputs from the same start, which ``state`` keeps.

    Attributes:
        number: that of the step that runs, 0 outside of ``run``.
        at_first_only: whether a gradient arrives at one output only in the last step.
        filled: what eager fills in its first step and then leaves alone.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Loss | None
    state: KeptState
    number: int = 0
    at_first_only: bool = True
    filled: FilledOnce = field(default_factory=FilledOnce)

    def run(self, called: nn.Module) -> Iterator[_Named]:
        """Run the steps with ``called`` in the place of the model, and yield everything to compare, by name.

        A tensor has its value only until the next one is asked for.
        """
        self._restart()
        for number in range(1, _STEPS + 1):
            self.number = number
            if number == _STEPS:
                update_parameters(self.model)
            torch.clear_autocast_cache()  # which training leaves between two steps
            args, kwargs = detached(self.args, self.kwargs)
            inputs, arguments = tensor_inputs(args, kwargs), Snapshot(argument_starts(args, kwargs))
            output, loss = self._step(called, args, kwargs)
            yield from _numbered(number, compared_state(self.model, self.state, inputs, arguments, output, loss))
            arguments.put_back()
        self.number = 0

    def differing(self, called: nn.Module, expected: Mapping[str, Any]) -> Iterator[_Named]:
        """Run the steps as ``run`` does, and yield what is not as expected."""
        missing = dict.fromkeys(expected, _MISSING)
        for name, value in self.run(called):
            missing.pop(name, None)
            if not same_value(expected.get(name, _MISSING), value):
                yield name, value
        yield from missing.items()

    def peak(self, called: nn.Module, training: TrainingState) -> int:
        """Measured peak of one step, in bytes above the constant ones, in a loop that does as ``training`` says."""
        accumulate, drop = training.accumulate, training.outputs == "dropped"
        peaks = []
        for _ in range(runs_to_measure_peak(called)):
            self._restart()
            if accumulate or self.state.steps_in_hooks:  # the first step of an optimizer makes the state that later ones find
                one_step(called, self.args, self.kwargs, self.loss)()
            if not accumulate:
                self.model.zero_grad(set_to_none=True)
            step = one_step(called, self.args, self.kwargs, self.loss, drop_outputs=drop)
            peaks.append(measure_peak(step, device_of(called)))
        return min(peaks)

    def times(self, called: nn.Module, predicted: tuple[float, float]) -> StepTimes:
        """Times of a few steps of ``called``, and of the model's own around them; ``predicted`` are seconds of both."""
        copies = bool(_pool_bytes(called))

        def seconds(of: nn.Module) -> float:
            self._restart()
            self.model.zero_grad(set_to_none=True)
            return seconds_of(one_step(of, self.args, self.kwargs, self.loss), device_of(of), copies=copies)

        return times_in_turn(lambda: seconds(called), lambda: seconds(self.model), predicted)

    def _restart(self) -> None:
        """Go back to the start, planned regions left on the model."""
        planned = planned_regions(self.model)
        self.state.restart()
        for forward in planned.values():
            forward.block.forward = forward

    def _step(self, called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, torch.Tensor | None]:
        """Output and loss of a step. In eager the model's own code runs, and shows which Python state it can reach."""
        if called is not self.model or planned_regions(self.model):
            output = called(*args, **kwargs)
            return output, self._backward(output)
        try:
            with self.state.observed():
                output = called(*args, **kwargs)
                loss = self._backward(output)
            if self.number == 1:
                self.filled.restart()
            self.filled.note(self.state.changed_objects())
            return output, loss
        except Exception as error:
            raise EagerStepError(
                f"the model itself, without a plan, raised {type(error).__name__} in step {self.number} of {_STEPS} that were "
                f"run one after the other: {error}",
                step=self.number,
            ) from error

    def _backward(self, output: Any) -> torch.Tensor | None:
        loss = loss_of_step(self.loss, self.args, self.kwargs)
        return run_backward(output, loss, at_first_only=self.at_first_only and self.number == _STEPS)


@dataclass(frozen=True)
class _Comparison:
    """The fields of ``Verification`` that come from comparing the planned steps with eager's."""

    differences: tuple[str, ...]
    nondeterministic: tuple[str, ...]
    largest_difference: float
    close: bool


def _compared(steps: _Steps, apply: Callable[[], nn.Module]) -> tuple[nn.Module, _Comparison]:
    """Run eager twice, then the model that ``apply`` returns; that model, and how it compares with eager."""
    expected = {name: kept_copy(value) if isinstance(value, torch.Tensor) else value for name, value in steps.run(steps.model)}
    nondeterministic = dict.fromkeys(name for name, _ in steps.differing(steps.model, expected))
    steps.state.restart()
    planned = apply()
    tolerance = ToleranceCheck(expected)
    differences = []
    for name, value in steps.differing(planned, expected):
        if name not in nondeterministic and not (value is _MISSING and steps.filled.holds(name)):
            differences.append(name)
            tolerance.add(name, value)
    for _ in range(_EXTRA_EAGER_RUNS if nondeterministic else 0):
        if not differences:
            break
        with without_regions(steps.model):
            unrepeated = {name for name, _ in steps.differing(steps.model, expected)}
        for name in [name for name in differences if name in unrepeated]:
            differences.remove(name)
            nondeterministic[name] = None
            tolerance.discard(name)
    comparison = _Comparison(tuple(differences), tuple(nondeterministic), tolerance.largest_difference, tolerance.all_close)
    return planned, comparison


def _applied(
    steps: _Steps, schedule: Schedule | RegionSchedule, compiler: str | None, disk_folder: str | Path | None
) -> nn.Module:
    """The model by ``schedule``, which refuses to plan anew in the first step."""
    if isinstance(schedule, RegionSchedule):
        planned = apply_schedule(steps.model, schedule, compiler=compiler, audit=False, disk_folder=disk_folder)
        for forward in planned_regions(planned).values():
            forward.watch = None
        return planned

    def replan(called: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], like: Schedule) -> Schedule:
        if steps.number > 1:
            return replan_like(called, args, kwargs, like, loss=steps.loss)
        raise StaleScheduleError(
            "the step of this call is not the planned one, although its inputs have the planned shapes and dtypes: strides or "
            "devices of tensors, which of them require a gradient, values in them that the forward reads or that decide sizes, "
            "hooks, or Python state that the forward reads are not as they were. Plan again for this call",
            differences=(),
        )

    planned = apply_schedule(steps.model, schedule, loss=steps.loss, replan=replan, compiler=compiler, disk_folder=disk_folder)
    planned_call(planned).unwatched()
    return planned


def _numbered(number: int, named: Iterable[_Named]) -> Iterator[_Named]:
    """With the number of the step, and of things of one name a number for all but the first."""
    count: Counter[str] = Counter()
    for name, value in named:
        count[name] += 1
        yield f"step {number}: {name}" + (f" ({count[name]})" if count[name] > 1 else ""), value


def _planned_bytes(schedule: Schedule | RegionSchedule) -> tuple[int, int]:
    """Bytes that are always allocated, and the planned peak of forward and backward."""
    if isinstance(schedule, RegionSchedule):
        return schedule.constant_bytes, schedule.peak_bytes
    constant = schedule.graph.constant_bytes
    return constant, int(schedule.simulation.bytes.max(initial=constant))


def _pool_bytes(planned: nn.Module) -> dict[str, int]:
    """Bytes that the programs of a planned model allocated in each pool."""
    if not is_planned_module(planned):
        return {}
    return {name: pool.size for name, pool in planned_call(planned).programs[0].pools.items()}


def _refuse_state_beyond_one_process(schedule: Schedule) -> None:
    if (counted := beyond_one_process(schedule.origin.training)) is not None:
        raise TrainingStateError(
            f"this schedule counts {counted}, which a step in one process does not have: verify a plan of the same model "
            "without that"
        )
