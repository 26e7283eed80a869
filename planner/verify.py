"""Does the planned module train with eager's bits within the plan's bytes? Answered by running both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.apply import apply_schedule, compiler_of, is_applied, refuse_compiled_for, remove_schedule
from remat_planner.planner.distributed import measurements
from remat_planner.planner.errors import TrainingStateError
from remat_planner.planner.measurement import (
    Closeness,
    Verification,
    detached,
    device_of,
    generator_states,
    left_as_it_was,
    measure_peak,
    one_step,
    restored,
    run_backward,
    same_bits,
)
from remat_planner.planner.planning import input_signature, settings_of
from remat_planner.planner.regions import planned_regions, put_back, take_off
from remat_planner.planner.training_state import VIEWS
from remat_planner.schedules import RegionSchedule, Schedule
from remat_planner.tracer.joint import flatten

_STEPS = 2  # the second one starts from updated buffers, another random state, and gradients to accumulate onto
_MORE_RUNS = 8  # of eager at the most, to see whether what differs is only what two runs of it had alike by chance


def verify(
    model: nn.Module,
    schedule: Schedule | RegionSchedule,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
) -> Verification:
    """Run two training steps of ``model`` in eager, twice, and by ``schedule``, and compare; then measure the peak of a
    planned step.

    A model that was applied with a compiler is checked as it then runs: its bits may differ from eager's, which says nothing
    against it as long as ``close`` is true, and its peak may differ from the predicted one.

    The model is left as it was: gradients, buffers, inputs and random generators. Its parameters are never changed.

    Args:
        model: what the schedule was planned for, planned or not.
        schedule: the plan to check; of one for several forms of input, that of the form given.
        args: positional inputs.
        kwargs: named inputs.
        loss: output -> scalar, as given to ``plan``; needed only where the schedule was loaded from a file and planned with
            one.

    Raises:
        schedules.StaleScheduleError: the schedule is for another model or other inputs.
        tracer.CaptureError: the model is compiled.
        TrainingStateError: it is for shards, or for gradients of another dtype, which this does not run.
    """
    if isinstance(schedule, Schedule):
        _check_that_it_runs_here(schedule)
    refuse_compiled_for(model, schedule)
    regions = planned_regions(model)
    compiler = compiler_of(model)
    model = remove_schedule(model) if is_applied(model) else model
    kwargs = dict(kwargs or {})
    if loss is None and isinstance(schedule, Schedule):
        loss = settings_of(schedule).loss
    inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    kept = left_as_it_was if isinstance(schedule, Schedule) else restored
    try:
        with kept(model, inputs) as restart:
            eager = {name: _cloned(tensor) for name, tensor in _trial(model, model, args, kwargs, loss, restart)}
            unsteady = [name for name, _ in _differing(eager, _trial(model, model, args, kwargs, loss, restart))]
            planned = apply_schedule(model, schedule, loss=loss, compiler=compiler)
            closeness = Closeness(eager)
            differences = []
            for name, tensor in _differing(eager, _trial(planned, model, args, kwargs, loss, restart)):
                if name not in unsteady:
                    differences.append(name)
                    closeness.look_at(name, tensor)
            for _ in range(_MORE_RUNS if unsteady else 0):
                if not differences:
                    break
                with _without_regions(model):
                    again = {name for name, _ in _differing(eager, _trial(model, model, args, kwargs, loss, restart))}
                for name in again.intersection(differences):
                    differences.remove(name)
                    unsteady.append(name)
                    closeness.forget(name)
            furthest, close = closeness.largest, closeness.close
            del eager, closeness
            peak = _measured(planned, args, kwargs, loss, restart, accumulate=schedule.origin.accumulate)
    finally:
        for forward in planned_regions(model).values():
            take_off(forward.block)
        for forward in regions.values():
            put_back(forward)
    constant, predicted = _planned_bytes(_of_form(schedule, args, kwargs))
    return Verification(
        identical=not differences,
        measured_peak_bytes=constant + peak,
        predicted_peak_bytes=predicted,
        budget_bytes=schedule.budget,
        differences=tuple(differences),
        nondeterministic=tuple(unsteady),
        compiler=compiler,
        largest_difference=furthest,
        close=close,
    )


@contextmanager
def _without_regions(model: nn.Module) -> Iterator[None]:
    """The model as eager runs it, whatever regions of it are planned."""
    planned = planned_regions(model).values()
    for forward in planned:
        take_off(forward.block)
    try:
        yield
    finally:
        for forward in planned:
            put_back(forward)


def _measured(
    planned: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: Callable[[Any], torch.Tensor] | None,
    restart: Callable[[], None],
    *,
    accumulate: bool,
) -> int:
    peaks = []
    for _ in range(measurements(planned)):
        restart()
        if accumulate:
            one_step(planned, args, kwargs, loss)()  # leaves gradients to add to
        peaks.append(measure_peak(one_step(planned, args, kwargs, loss), device_of(planned)))
    return min(peaks)


def _of_form(
    schedule: Schedule | RegionSchedule, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Schedule | RegionSchedule:
    """The schedule that these inputs run by."""
    if isinstance(schedule, RegionSchedule):
        return schedule
    inputs = input_signature(args, kwargs)
    return next((form for form in schedule.forms if form.origin.inputs == inputs), schedule)


def _planned_bytes(schedule: Schedule | RegionSchedule) -> tuple[int, int]:
    """Bytes that are there all the time, and the peak of forward and backward as planned."""
    if isinstance(schedule, RegionSchedule):
        return schedule.constant_bytes, schedule.peak_bytes
    constant = schedule.graph.constant_bytes
    return constant, int(schedule.simulation.bytes.max(initial=constant))


def _check_that_it_runs_here(schedule: Schedule) -> None:
    origin = schedule.origin
    if origin.shard > 1:
        what = f"parameters in shards over {origin.shard} ranks"
    elif origin.gradient_dtype is not None:
        what = f"gradients in {origin.gradient_dtype}"
    elif origin.gradient_buckets == VIEWS:
        what = "gradients in the buckets of DistributedDataParallel"
    else:
        return
    raise TrainingStateError(
        f"this schedule counts {what}, which a step in one process does not have: verify a plan of the same model without that"
    )


Named = tuple[str, torch.Tensor | None]


def _trial(
    called: nn.Module,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: Callable[[Any], torch.Tensor] | None,
    restart: Callable[[], None],
) -> Iterator[Named]:
    """Everything that the training steps compute, by name, when ``called`` stands for ``model``; to be looked at one by one."""
    restart()
    args, kwargs = detached(args, kwargs)
    for number in range(1, _STEPS + 1):
        output = called(*args, **kwargs)
        value = run_backward(output, loss)
        inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        named: dict[str, torch.Tensor | None] = {"loss": value}
        named |= {f"output {k}": leaf for k, leaf in enumerate(flatten(output)[0]) if isinstance(leaf, torch.Tensor)}
        named |= {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.requires_grad}
        named |= {f"gradient of input {k}": leaf.grad for k, leaf in enumerate(inputs) if leaf.requires_grad}
        named |= {f"buffer {name}": buffer for name, buffer in model.named_buffers()}
        named |= {f"random state {k}": state for k, state in enumerate(generator_states())}
        for name, tensor in named.items():
            yield f"step {number}: {name}", tensor


def _cloned(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _differing(expected: Mapping[str, torch.Tensor | None], found: Iterator[Named]) -> Iterator[Named]:
    return ((name, tensor) for name, tensor in found if not same_bits(expected[name], tensor))
