"""A planned module that has no plan yet: its first training call makes one."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from remat_planner.planner.runtime.module_view import module_view_of
from remat_planner.planner.runtime.planned_module import PlannedForward


class FirstCalls(Protocol):
    """What the module does until it is planned: ``__call__`` puts a ``PlannedCall`` in its place."""

    model: nn.Module

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of the model on these inputs."""


MakeCalls = Callable[[nn.Module, Callable[[], nn.Module | None]], FirstCalls]
"""``make(model, view)``: the first calls of ``view()``, a view of ``model``. A pickle names it."""


def first_call_module(model: nn.Module, make: MakeCalls) -> nn.Module:
    """A view of ``model`` that runs what ``make`` returns. A copy or a pickle of it is one that has no plan either."""
    base: Any = type(model)

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> nn.Module:  # noqa: N807
        if self._becomes is not None:
            return copy.deepcopy(self._becomes, memo)
        return first_call_module(copy.deepcopy(self._planned.model, memo), make)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        if self._becomes is not None:
            return self._becomes.__reduce_ex__(protocol)
        return first_call_module, (self._planned.model, make)

    view = module_view_of(
        model,
        {"forward": PlannedForward(base.forward), "__deepcopy__": __deepcopy__, "__reduce_ex__": __reduce_ex__},
        slots=("_planned", "_replaced_forward", "_becomes"),
    )
    object.__setattr__(view, "_planned", make(model, weakref.ref(view)))
    object.__setattr__(view, "_replaced_forward", None)
    object.__setattr__(view, "_becomes", None)
    return view


def let_become(view: nn.Module, planned: nn.Module, calls: Any) -> None:
    """Let ``view`` run ``calls`` from now on, and copies and pickles of it be those of ``planned``."""
    object.__setattr__(view, "_planned", calls)
    object.__setattr__(view, "_becomes", planned)
