"""Putting a schedule on a model, and taking it off.

The planned model is a twin: another object of a subclass of the model's own class, with the very same ``__dict__``. So
parameters, buffers, submodules, mode and every attribute are the model's, under the same names, and only ``forward``
differs. The model itself is not touched and stays eager.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from planner.plan import schedule_step
from planner.planned_call import PlannedCall, Replan
from planner.step import settings_of, state_signature, trace_step
from planner.training_errors import AlreadyAppliedError, NotAppliedError
from schedules import Origin, Schedule, StaleScheduleError, origin_differences

# A twin has its own hooks: those that the model had are part of what was captured, or run where the model itself is called.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def apply_schedule(
    model: nn.Module,
    schedule: Schedule,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
    replan: Replan | None = None,
) -> nn.Module:
    """The model as a module that trains by ``schedule``: the same outputs, gradients and buffers, bit for bit, within its
    bytes.

    What comes back shares everything with ``model`` (parameters under the same names, buffers, submodules, mode,
    attributes) and is an instance of its class; ``model`` stays as it is. In evaluation mode and without gradients it runs
    the model's own forward. For inputs of another form than the planned ones it plans once more with the same budget and
    says so on the logger "planner".

    Args:
        model: the model that the schedule was planned for.
        schedule: from ``plan`` or ``Schedule.load``. A loaded one is checked against a capture at the first training call.
        loss: the loss that was given to ``plan``; only needed for a loaded schedule that was planned with one.
        replan: how to plan for other inputs, by default as ``schedule`` was planned.

    Raises:
        AlreadyAppliedError: ``model`` is planned already.
        schedules.StaleScheduleError: the parameters or buffers are not those that the schedule was made for.
        schedules.InvalidScheduleError: the steps of the schedule would not give eager's bits.
    """
    if is_applied(model):
        raise AlreadyAppliedError(
            f"this {type(model).__name__} has a schedule already: apply the new one to the model itself, "
            "planner.apply_schedule(planner.remove_schedule(model), schedule)"
        )
    _check_state(model, schedule)
    return _twin(model, PlannedCall(model, schedule, loss=loss, replan=replan or functools.partial(replan_like, loss=loss)))


def remove_schedule(model: nn.Module) -> nn.Module:
    """The model that ``apply_schedule`` was given, which has all that was trained since.

    Raises:
        NotAppliedError: ``model`` has no schedule.
    """
    return planned_call(model).model


def is_applied(model: nn.Module) -> bool:
    """Whether ``model`` came out of ``apply_schedule``."""
    return isinstance(getattr(type(model), "_planned", None), types.MemberDescriptorType)


def planned_call(model: nn.Module) -> PlannedCall:
    """The programs behind a planned model.

    Raises:
        NotAppliedError: ``model`` has no schedule.
    """
    if not is_applied(model):
        raise NotAppliedError(f"this {type(model).__name__} has no schedule: it did not come out of planner.apply_schedule")
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


def _check_state(model: nn.Module, schedule: Schedule) -> None:
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


def _apply_again(model: nn.Module, schedule: Schedule, loss: Callable[[Any], torch.Tensor] | None) -> nn.Module:
    return apply_schedule(model, schedule, loss=loss)


def _twin(model: nn.Module, planned: PlannedCall) -> nn.Module:
    base: Any = type(model)

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> nn.Module:  # noqa: N807
        copied = copy.deepcopy(self._planned.model, memo)
        return _twin(copied, self._planned.on(copied))

    def __reduce_ex__(self: Any, _protocol: Any) -> tuple[Any, ...]:  # noqa: N807
        return _apply_again, (self._planned.model, self._planned.schedule, self._planned.loss)

    # Slots, unlike attributes, are not in the shared __dict__.
    body = {
        "__slots__": ("_planned", "_replaced_forward", *_HOOKS),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "forward": _PlannedForward(base.forward),
        "__deepcopy__": __deepcopy__,
        "__reduce_ex__": __reduce_ex__,
    }
    twin_class = type(base)(base.__name__, (base,), body)
    twin = object.__new__(twin_class)
    object.__setattr__(twin, "__dict__", model.__dict__)
    object.__setattr__(twin, "_planned", planned)
    object.__setattr__(twin, "_replaced_forward", None)
    for hooks in _HOOKS:
        object.__setattr__(twin, hooks, OrderedDict())
    return twin
