"""What an object that is an argument holds besides its tensors, to compare the next one of the same structure with in bulk."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch

from remat_planner.tracer.python_state.holders import Names, is_plain, plain_form
from remat_planner.tracer.python_state.object_form import ObjectForm, picked
from remat_planner.tracer.python_state.tensor_entries import form_of, has_form
from remat_planner.tracer.python_state.watch import holders_in, same_thing
from remat_planner.tracer.torch_nested import is_jagged


class ObjectContent:
    """The structure of an object, its plain values, and the forms of its tensors; no tensor is kept alive.

    ``holds(other)`` says True only where ``described_value(other, names)`` is that of the object, and seldom False where it is.

    Args:
        thing: the object.
        names: the names that matter of attributes; None for all.

    Raises:
        LookupError: it cannot be compared in bulk.
    """

    def __init__(self, thing: Any, names: Names) -> None:
        holders = holders_in(thing, names)
        if any(holder.place.is_registry and holder.entries() for holder in holders):
            raise LookupError("parameters of a module in it are constants of the step")
        self._form, entries = ObjectForm.of(holders)
        values = self._form.values_in(thing)
        if values is None:
            raise LookupError("it changes while it is read")
        described = {id(holder.target) for holder in holders if holder.has_own_description}
        tensors: list[int] = []
        plain: list[int] = []
        by_text: list[int] = []
        others: list[int] = []
        for position, *_ in entries:
            value = values[position]
            if isinstance(value, torch.Tensor):
                if not has_form(value) or is_jagged(value):
                    raise LookupError("a nested tensor is not compared in bulk")
                tensors.append(position)
            elif is_plain(value):
                (plain if plain_form(value)[1] is value else by_text).append(position)
            elif id(value) not in described or isinstance(value, (FunctionType, type)):
                others.append(position)
        self._tensors, self._plain, self._by_text, self._others = map(picked, (tensors, plain, by_text, others))
        self._tensor_forms = list(map(form_of, self._tensors(values)))
        self._plain_values = self._plain(values)
        self._texts = list(map(repr, self._by_text(values)))
        self._same_things = list(map(same_thing, self._others(values)))

    def holds(self, thing: Any) -> bool:
        """Whether ``thing`` has the same structure and values, and tensors of the same forms."""
        values = self._form.values_in(thing)
        return (
            values is not None
            and self._plain(values) == self._plain_values
            and list(map(repr, self._by_text(values))) == self._texts
            and list(map(form_of, self._tensors(values))) == self._tensor_forms
            and list(map(same_thing, self._others(values))) == self._same_things
        )
