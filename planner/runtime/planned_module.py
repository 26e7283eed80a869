"""A planned module: a view of the model whose ``forward`` runs by a schedule."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from remat_planner.planner.runtime.module_view import module_view_of
from remat_planner.planner.runtime.planned_call import PlannedCall
from remat_planner.schedules import Schedule

ApplyAgain = Callable[[nn.Module, Schedule, Callable[..., torch.Tensor] | None, str | None, bool, str | Path | None], nn.Module]
"""``apply_again(model, schedule, loss, compiler, audit, disk_folder)``: the planned module. A pickle names it, so it is a
function of a module."""


def planned_module(model: nn.Module, call: PlannedCall, apply_again: ApplyAgain) -> nn.Module:
    """A view of ``model`` that runs ``call``. A copy of it has the same programs; a pickle applies the schedule again."""
    base: Any = type(model)

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> nn.Module:  # noqa: N807
        copied = copy.deepcopy(self._planned.model, memo)
        return planned_module(copied, self._planned.on(copied), apply_again)

    def __reduce_ex__(self: Any, _protocol: Any) -> tuple[Any, ...]:  # noqa: N807
        call: PlannedCall = self._planned
        loss = _picklable(call.loss)
        return apply_again, (call.model, call.schedule, loss, call.compiler, call.audit is not None, call.disk_folder)

    # The view has hooks of its own. Hooks of the model were captured, or run where the model itself is called.
    view = module_view_of(
        model,
        {"forward": PlannedForward(base.forward), "__deepcopy__": __deepcopy__, "__reduce_ex__": __reduce_ex__},
        slots=("_planned", "_replaced_forward"),
    )
    object.__setattr__(view, "_planned", call)
    object.__setattr__(view, "_replaced_forward", None)
    return view


def _picklable(loss: Callable[..., torch.Tensor] | None) -> Callable[..., torch.Tensor] | None:
    """``loss``, but None for a local function or a lambda: the step is then captured as that of a schedule from a file."""
    try:
        pickle.dumps(loss)
    except Exception:  # whatever a reduction raises
        return None
    return loss


def is_planned_module(model: nn.Module) -> bool:
    """Whether ``planned_module`` made ``model``."""
    return isinstance(getattr(type(model), "_planned", None), types.MemberDescriptorType)


def call_of(model: nn.Module) -> PlannedCall:
    """The programs of a planned module."""
    return model._planned  # type: ignore[return-value]


class PlannedForward:
    """``forward`` of a view's class: planned on the view, the model's own on the class. An assignment replaces it."""

    def __init__(self, model_forward: Callable[..., Any]) -> None:
        @functools.wraps(model_forward)
        def forward(view: Any, *args: Any, **kwargs: Any) -> Any:
            return view._planned(args, kwargs)

        # Trainers inspect the signature. But __wrapped__ must not lead to the model's own forward: code that removes its own
        # wrappers (Accelerate's unwrap_model) would then remove the plan too.
        with suppress(ValueError, TypeError):  # compiled code may have no signature
            forward.__signature__ = inspect.signature(model_forward)  # type: ignore[attr-defined]
        del forward.__wrapped__
        self._model_forward = model_forward
        self._forward = forward

    def __get__(self, view: Any, kind: type | None = None) -> Callable[..., Any]:
        if view is None:
            return self._model_forward
        return view._replaced_forward or types.MethodType(self._forward, view)

    def __set__(self, view: Any, replacement: Callable[..., Any]) -> None:
        object.__setattr__(view, "_replaced_forward", replacement)

    def __delete__(self, view: Any) -> None:
        object.__setattr__(view, "_replaced_forward", None)
