"""The tensors inside an object that is an argument of a call, and the way to each."""

from __future__ import annotations

import weakref
from collections import deque
from types import FunctionType, MethodType
from typing import Any

import torch

from remat_planner.tracer.python_state.attributes import ModuleAttributes
from remat_planner.tracer.python_state.holders import PLAIN
from remat_planner.tracer.python_state.places import Place, Step
from remat_planner.tracer.python_state.walk import holder_of

_MOST_HOLDERS = 10_000  # objects that are looked at in one argument
_HOLD_NO_INPUT = (torch.Tensor, FunctionType, MethodType, type, weakref.ref, *PLAIN)


def tensors_of_object(thing: Any) -> list[tuple[tuple[Step, ...], torch.Tensor]]:
    """The tensors in the attributes, slots and items of ``thing``, nearest first, each with the steps that lead to it.

    Modules, functions and methods are left out: what they hold is state, not input. So are sets, whose items have no places.
    """
    if isinstance(thing, _HOLD_NO_INPUT):
        return []
    found = []
    queue = deque([(Place("", None, "object"), thing)])
    seen: set[int] = set()
    while queue and len(seen) < _MOST_HOLDERS:
        place, value = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        holder = holder_of(place, value, None)
        if holder is None or not holder.has_places or isinstance(holder, ModuleAttributes):
            continue
        for key, entry in holder.entries().items():
            if isinstance(entry, torch.Tensor):
                found.append((holder.place_of(key).steps, entry))
            elif not isinstance(entry, _HOLD_NO_INPUT):
                queue.append((holder.place_of(key), entry))
    return found
