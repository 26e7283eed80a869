"""Putting a schedule on a model, and taking it off.

The planned model is a twin: another object of a subclass of the model's own class, with the very same ``__dict__``. So
parameters, buffers, submodules, mode and every attribute are the model's, under the same names, and only ``forward``
differs. The model itself is not touched and stays eager.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from remat_planner.planner.compile import check_compiler
from remat_planner.planner.errors import AlreadyAppliedError, NotAppliedError
from remat_planner.planner.planning import schedule_step, settings_of, state_signature, trace_step
from remat_planner.planner.regions import RegionForward, apply_regions, planned_regions, remove_regions
from remat_planner.planner.runtime import PlannedCall, Replan, twin_of
from remat_planner.schedules import Origin, RegionSchedule, Schedule, StaleScheduleError, origin_differences
from remat_planner.tracer.refusals import refuse_compiled, refuse_compiled_around


def apply_schedule(
    model: nn.Module,
    schedule: Schedule | RegionSchedule,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
    replan: Replan | None = None,
    compiler: str | None = None,
) -> nn.Module:
    """The model as a module that trains by ``schedule``: the same outputs, gradients and buffers, bit for bit, within its
    bytes.

    What comes back shares everything with ``model`` (parameters under the same names, buffers, submodules, mode,
    attributes) and is an instance of its class; ``model`` stays as it is. In evaluation mode and without gradients it runs
    the model's own forward. For inputs of another form than the planned ones it plans once more with the same budget and
    says so on the logger "planner".

    A schedule by regions is put on ``model`` itself, which comes back: the forwards of its blocks are replaced and nothing
    else, so that it can be wrapped afterwards (DDP, ``fully_shard``) as it could before.

    Args:
        model: the model that the schedule was planned for.
        schedule: from ``plan`` or ``Schedule.load``. A loaded one is checked against a capture at the first training call.
        loss: the loss that was given to ``plan``; only needed for a loaded schedule that was planned with one.
        replan: how to plan for other inputs, by default as ``schedule`` was planned.
        compiler: "inductor" to have what runs between the schedule's recomputations compiled. The same is recomputed, but
            bits may then differ from eager's and the peak from the plan's: ``verify`` the applied model to see both.

    Raises:
        CompilerError: no such compiler, or it cannot be used here or cannot compile the step.
        AlreadyAppliedError: ``model`` is planned already.
        tracer.CaptureError: ``model`` is compiled.
        schedules.StaleScheduleError: the parameters or buffers are not those that the schedule was made for.
        schedules.InvalidScheduleError: the steps of the schedule would not give eager's bits.
    """
    refuse_compiled_for(model, schedule)
    if is_applied(model):
        raise AlreadyAppliedError(
            f"this {type(model).__name__} has a schedule already: apply the new one to the model itself, "
            "remat_planner.apply_schedule(remat_planner.remove_schedule(model), schedule)"
        )
    if compiler is not None:
        check_compiler(compiler, model.parameters())
    if isinstance(schedule, RegionSchedule):
        return apply_regions(model, schedule, replan=replan, compiler=compiler)
    check_state(model, schedule)
    replan = replan or functools.partial(replan_like, loss=loss)
    return _twin(model, PlannedCall(model, schedule, loss=loss, replan=replan, compiler=compiler))


def remove_schedule(model: nn.Module) -> nn.Module:
    """The model that ``apply_schedule`` was given, which has all that was trained since.

    Raises:
        NotAppliedError: ``model`` has no schedule.
    """
    if planned_regions(model):
        remove_regions(model)
        return model
    return planned_call(model).model


def is_applied(model: nn.Module) -> bool:
    """Whether ``model`` came out of ``apply_schedule``."""
    return _is_twin(model) or bool(planned_regions(model))


def _is_twin(model: nn.Module) -> bool:
    return isinstance(getattr(type(model), "_planned", None), types.MemberDescriptorType)


def refuse_compiled_for(model: nn.Module, schedule: Schedule | RegionSchedule) -> None:
    """Refuse a compiled model for the schedule: all of it, or what lies around and in the schedule's regions.

    Raises:
        tracer.errors.ModelNotSupportedError: it is compiled.
    """
    if isinstance(schedule, Schedule):
        refuse_compiled(model)
    else:
        for region in schedule.regions:
            refuse_compiled_around(model, region)


def compiler_of(model: nn.Module) -> str | None:
    """The compiler that ``apply_schedule`` was given with ``model``; None without one."""
    calls: list[PlannedCall | RegionForward] = [planned_call(model)] if _is_twin(model) else [*planned_regions(model).values()]
    return next((call.compiler for call in calls), None)


def planned_call(model: nn.Module) -> PlannedCall:
    """The programs behind a planned model.

    Raises:
        NotAppliedError: ``model`` has no schedule.
    """
    if not _is_twin(model):
        raise NotAppliedError(
            f"this {type(model).__name__} has no schedule: it did not come out of remat_planner.apply_schedule"
        )
    return model._planned  # type: ignore[return-value]


def replan_like(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    like: Schedule,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
) -> Schedule:
    """Plan for other inputs as ``like`` was planned, with the same budget; ``loss`` where ``like`` was loaded without it."""
    settings = settings_of(like)
    return schedule_step(trace_step(model, args, kwargs, settings=replace(settings, loss=settings.loss or loss)), like.budget)


def check_state(model: nn.Module, schedule: Schedule) -> None:
    """Make sure that ``model`` has the parameters and buffers that ``schedule`` was made for.

    Raises:
        schedules.StaleScheduleError: it has others.
    """
    planned = schedule.origin.parameters
    if not planned:
        return  # a schedule made by hand
    what = origin_differences(Origin(parameters=planned), Origin(parameters=state_signature(model)))
    if what:
        raise StaleScheduleError(
            f"the schedule was made for another model ({schedule.origin.model}): {'; '.join(what)}. Plan again for this one",
            differences=what,
        )


class _PlannedForward:
    """``forward`` of a twin's class: planned on the twin, the model's own on the class. Assigning another one replaces it."""

    def __init__(self, own: Callable[..., Any]) -> None:
        @functools.wraps(own)
        def forward(twin: Any, *args: Any, **kwargs: Any) -> Any:
            return twin._planned(args, kwargs)

        # The signature that trainers look at, but no way to the model's own forward: who takes off what they wrapped around it
        # (Accelerate's unwrap_model) stops here, and the plan stays on.
        with suppress(ValueError, TypeError):  # compiled code may have none
            forward.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
        del forward.__wrapped__
        self.own = own
        self.forward = forward

    def __get__(self, twin: Any, kind: type | None = None) -> Callable[..., Any]:
        if twin is None:
            return self.own
        return twin._replaced_forward or types.MethodType(self.forward, twin)

    def __set__(self, twin: Any, replacement: Callable[..., Any]) -> None:
        object.__setattr__(twin, "_replaced_forward", replacement)

    def __delete__(self, twin: Any) -> None:
        object.__setattr__(twin, "_replaced_forward", None)


def _apply_again(
    model: nn.Module, schedule: Schedule, loss: Callable[[Any], torch.Tensor] | None, compiler: str | None
) -> nn.Module:
    return apply_schedule(model, schedule, loss=loss, compiler=compiler)


def _twin(model: nn.Module, planned: PlannedCall) -> nn.Module:
    base: Any = type(model)

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> nn.Module:  # noqa: N807
        copied = copy.deepcopy(self._planned.model, memo)
        return _twin(copied, self._planned.on(copied))

    def __reduce_ex__(self: Any, _protocol: Any) -> tuple[Any, ...]:  # noqa: N807
        planned: PlannedCall = self._planned
        return _apply_again, (planned.model, planned.schedule, planned.loss, planned.compiler)

    # A twin has its own hooks: those that the model had are part of what was captured, or run where the model itself is called.
    twin = twin_of(
        model,
        {"forward": _PlannedForward(base.forward), "__deepcopy__": __deepcopy__, "__reduce_ex__": __reduce_ex__},
        slots=("_planned", "_replaced_forward"),
    )
    object.__setattr__(twin, "_planned", planned)
    object.__setattr__(twin, "_replaced_forward", None)
    return twin
