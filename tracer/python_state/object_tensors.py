"""The tensors inside an object that is an argument of a call, and the way to each."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from types import FunctionType, MethodType
from typing import Any

import torch

from remat_planner.tracer.python_state.attributes import ModuleAttributes
from remat_planner.tracer.python_state.holders import PLAIN, Holder
from remat_planner.tracer.python_state.object_form import ObjectForm, picked
from remat_planner.tracer.python_state.places import Place, Step
from remat_planner.tracer.python_state.walk import holder_of

_MOST_HOLDERS = 10_000  # objects that are looked at in one argument
_HOLD_NO_INPUT = (torch.Tensor, FunctionType, MethodType, type, weakref.ref, *PLAIN)


def tensors_of_object(thing: Any) -> list[tuple[tuple[Step, ...], torch.Tensor]]:
    """The tensors in the attributes, slots and items of ``thing``, nearest first, each with the steps that lead to it.

    Modules, functions and methods are left out: what they hold is state, not input. So are sets, whose items have no places.
    """
    return [
        (holder.place_of(key).steps, entry)
        for holder in _holders_of(thing)
        for key, entry in holder.entries().items()
        if isinstance(entry, torch.Tensor)
    ]


def may_hold_tensors(thing: Any) -> bool:
    """False for what ``tensors_of_object`` does not look into."""
    return not isinstance(thing, _HOLD_NO_INPUT)


class ObjectTensors:
    """The ways to the tensors inside an object, which lead to those of another object of the same structure.

    Args:
        thing: the object.

    Attributes:
        steps: those to each tensor, as ``tensors_of_object`` gives them.

    Raises:
        LookupError: other objects have to be walked through.
    """

    def __init__(self, thing: Any) -> None:
        self._kind = type(thing)
        self._form: ObjectForm | None = None
        self.steps: tuple[tuple[Step, ...], ...] = ()
        holders = _holders_of(thing)
        if not holders:  # so it is for all objects of its class
            return
        self._form, entries = ObjectForm.of(holders)
        values = self._form.values_in(thing)
        if values is None:
            raise LookupError("it changes while it is read")
        found = [entry for entry in entries if isinstance(values[entry.position], torch.Tensor)]
        self._tensors = picked([entry.position for entry in found])
        self.steps = tuple(entry.holder.place_of(entry.key).steps for entry in found)

    def of(self, thing: Any) -> Sequence[torch.Tensor] | None:
        """The tensors of ``thing``, one for each of ``steps``; None where its structure is another one."""
        if self._form is None:
            return () if type(thing) is self._kind else None
        values = self._form.values_in(thing)
        return None if values is None else self._tensors(values)


def _holders_of(thing: Any) -> list[Holder]:
    """The objects in which a tensor of ``thing`` can be, nearest first."""
    if not may_hold_tensors(thing):
        return []
    found: list[Holder] = []
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
        found.append(holder)
        entries = holder.entries().items()
        queue.extend((holder.place_of(key), entry) for key, entry in entries if not isinstance(entry, _HOLD_NO_INPUT))
    return found
