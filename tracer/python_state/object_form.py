"""The structure of an object that is an argument, so that the next one of the same structure is read without a walk.

A loader makes a new batch object for each step, and only the tensors in it differ. A walk over such an object takes longer than
the checks of all other inputs. Here classes, keys and kinds of entries are compared in bulk with those of one walk; where one
differs, the walk has to tell.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import MethodType
from typing import Any, NamedTuple

from remat_planner.tracer.python_state.attributes import Attributes, ClassAttributes, Function, Namespace
from remat_planner.tracer.python_state.holders import Holder

_MOST_ENTRIES = 2_000  # with more, a comparison is no quicker than a walk
_OF_CLASSES = (ClassAttributes, Function, Namespace)


class Entry(NamedTuple):
    """One entry of an object or of one inside it.

    Attributes:
        position: among the values that ``ObjectForm.values_in`` returns.
        holder: what it is in.
        key: under which it is there.
    """

    position: int
    holder: Holder
    key: Any


class _Opened(NamedTuple):
    """An object whose entries are read: its position among the values, the two ways to read it, and what it had."""

    position: int
    keys_of: Callable[[Any], Any]
    values_of: Callable[[Any], Any]
    keys: Any
    kinds: list[type]


class ObjectForm:
    """The classes of an object and of those inside it, their keys, and which of them are one object; no object is kept.

    ``ObjectForm.of(holders)`` makes it.
    """

    def __init__(self, kind: type, opened: Sequence[_Opened], checks: Sequence[Callable[[], bool]]) -> None:
        self._kind, self._opened, self._checks = kind, opened, checks
        self._holding: list[int] = [0]
        self._first: list[int] = [0]

    @classmethod
    def of(cls, holders: Sequence[Holder]) -> tuple[ObjectForm, list[Entry]]:
        """The form, and the entries, of what a walk finds in an object; the object itself is the first holder.

        Raises:
            LookupError: the structure does not follow from classes and keys, as that of a set does not.
        """
        values = [holders[0].target]
        first = {id(values[0]): 0}
        entries: list[Entry] = []
        opened: list[_Opened] = []
        checks: list[Callable[[], bool]] = []
        of_classes: set[int] = set()
        for holder in holders:
            position = first.get(id(holder.target))
            if isinstance(holder, _OF_CLASSES) or (position is None and id(holder.target) in of_classes):
                # It is the same one for all objects of this structure.
                of_classes.update(map(id, holder.entries().values()))
                checks += filter(None, [holder.check()])
                continue
            if position is None:
                raise LookupError(f"{holder.place.label} is not reached by its entries")
            keys_of, values_of = _ways_into(holder)
            keys, found = keys_of(holder.target), list(values_of(holder.target))
            if len(values) + len(found) > _MOST_ENTRIES:
                raise LookupError(f"{holder.place.label} has too many entries")
            opened.append(_Opened(position, keys_of, values_of, keys, list(map(type, found))))
            met = holder.entries()
            for key, value in zip(keys if isinstance(keys, list) else met, found, strict=True):
                if key in met:
                    entries.append(Entry(len(values), holder, key))
                    first.setdefault(id(value), len(values))
                values.append(value)
        form = cls(type(values[0]), opened, checks)
        inside = {id(holder.target) for holder in holders}
        form._holding += [entry.position for entry in entries if id(values[entry.position]) in inside]
        form._first = form._first_of_each(values)
        return form, entries

    def values_in(self, thing: Any) -> list[Any] | None:
        """``thing``, its entries and theirs, in the order of ``entries``; None where its structure is another one."""
        if type(thing) is not self._kind:
            return None
        values = [thing]
        for position, keys_of, values_of, keys, kinds in self._opened:
            holder = values[position]
            if keys_of(holder) != keys:
                return None
            found = values_of(holder)
            if list(map(type, found)) != kinds:
                return None
            values += found
        return values if self._first_of_each(values) == self._first and all(check() for check in self._checks) else None

    def _first_of_each(self, values: Sequence[Any]) -> list[int]:
        """For each value that holds others the position at which it is first met."""
        first: dict[int, int] = {}
        return [first.setdefault(id(values[k]), k) for k in self._holding]


def _ways_into(holder: Holder) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """How to read the keys of an object, and its entries in their order."""
    target = holder.target
    if type(holder) is Attributes:
        return _attribute_names, _attributes
    if type(target) is dict and all(type(key) in (str, int) for key in target):
        return list, dict.values
    if isinstance(target, (list, tuple)):
        return len, tuple
    if isinstance(target, weakref.ref) and not isinstance(target(), (MethodType, type(None))):
        return _no_keys, _referent
    raise LookupError(f"the structure of {holder.place.label} is not compared in bulk")


def _attribute_names(thing: Any) -> list[str]:
    return list(thing.__dict__)


def _attributes(thing: Any) -> Any:
    return thing.__dict__.values()


def _no_keys(_reference: Any) -> None:
    return None


def _referent(reference: Any) -> tuple[Any]:
    return (reference(),)


def picked(indices: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that picks these items, as quickly as can be."""
    if len(indices) > 1:
        return itemgetter(*indices)
    return lambda values: tuple(values[k] for k in indices)
