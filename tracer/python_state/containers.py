"""Containers, memory of numbers, weak references, and random generators of Python and NumPy."""

from __future__ import annotations

import random
import types
import typing
from array import array as array_of_numbers
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Container
from typing import Any

import numpy as np
import torch

from remat_planner.tracer.python_state.holders import Holder, Names
from remat_planner.tracer.python_state.long_containers import (
    LONG,
    same_items,
    same_parts_of_array,
    same_parts_of_mapping,
)
from remat_planner.tracer.python_state.places import Place, referent_of
from remat_planner.tracer.python_state.tensor_entries import has_form, same_forms

_MOST_ITEMS = 1_000_000  # of one container that are looked at; of a longer one its length only
_MOST_BYTES = 2**20  # of numbers in memory; to compare so many takes a tenth of a millisecond
_MOST_BYTES_KEPT = 2**26  # of an array, which is compared in parts; of a larger one it is not known whether it changes


class Mapping(Holder):
    """A dictionary of any class."""

    has_names = True
    is_ordered = True

    def entries(self) -> dict[Any, Any]:
        long = len(self.target) > _MOST_ITEMS
        return {"number of items": len(self.target)} if long else dict(self._kind.items(self.target))

    def place_of(self, key: Any) -> Place:
        return self.place.item(key)

    def put_back(self, entries: dict[Any, Any]) -> None:
        if len(self.target) > _MOST_ITEMS:
            return
        self._kind.clear(self.target)
        self._kind.update(self.target, entries)

    @property
    def _kind(self) -> Any:
        """The class whose methods to call: those of a subclass may do other things, as a Counter's update adds up."""
        return OrderedDict if isinstance(self.target, OrderedDict) else dict

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:
        if ignored or type(self.target) is not dict or len(self.target) > LONG:
            return None
        return self.target, [key for key in self.target if key not in ignored]

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:
        is_same, keys_of, target = super().check(ignored), self._kind.keys, self.target
        if ignored or len(target) > _MOST_ITEMS or is_same is None:
            return is_same
        if len(target) > LONG and not any(isinstance(value, torch.Tensor) for value in dict.values(target)):
            return same_parts_of_mapping(target)
        keys = list(keys_of(target))
        return lambda: list(keys_of(target)) == keys and is_same()


class MappingView(Holder):
    """A view of a dictionary that cannot be changed through it."""

    is_view = True

    def entries(self) -> dict[Any, Any]:
        return dict(self.target) if len(self.target) <= _MOST_ITEMS else {"number of items": len(self.target)}

    def place_of(self, key: Any) -> Place:
        return self.place.item(key)

    def put_back(self, entries: dict[Any, Any]) -> None:
        """Nothing can have changed but the dictionary."""


class Sequence(Holder):
    """A list or a deque."""

    def entries(self) -> dict[Any, Any]:
        long = len(self.target) > _MOST_ITEMS
        return {"number of items": len(self.target)} if long else dict(enumerate(self._kind.__iter__(self.target)))

    def place_of(self, key: Any) -> Place:
        return self.place.item(key)

    def put_back(self, entries: dict[Any, Any]) -> None:
        if len(self.target) > _MOST_ITEMS:
            return
        self._kind.clear(self.target)
        self._kind.extend(self.target, entries.values())

    @property
    def _kind(self) -> Any:
        """The class whose methods to call: those of a subclass may do other things."""
        return deque if isinstance(self.target, deque) else list

    def compared(self, ignored: Collection[Any]) -> dict[Any, Any]:
        compared = super().compared(ignored)
        if compared or getattr(self.target, "maxlen", None) is None:
            return compared
        return {"is full": len(self.target) == self.target.maxlen}

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:
        target, size = self.target, len(self.target)
        if not ignored and 0 < size <= _MOST_ITEMS and all(map(has_form, target)):
            return same_forms(target)
        if ignored or size > _MOST_ITEMS or any(isinstance(value, torch.Tensor) for value in target):
            return super().check(ignored)
        if size > LONG and type(target) is list:
            return same_items(target)
        kept = tuple(target)
        expected = tuple(map(id, kept))
        return lambda: tuple(map(id, target)) == expected and kept is not None


class Fixed(Holder):
    """What cannot change itself but may hold what can: a tuple, a method, a partial function."""

    @property
    def has_own_description(self) -> bool:  # type: ignore[override]
        return isinstance(self.target, tuple)  # another method is another function

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:  # noqa: ARG002
        return None

    def entries(self) -> dict[Any, Any]:
        target = self.target
        if isinstance(target, tuple):
            return dict(enumerate(target))
        if isinstance(target, types.MethodType):
            return {"__self__": target.__self__, "__func__": target.__func__}
        return {"func": target.func, "args": target.args, "keywords": target.keywords}

    def place_of(self, key: Any) -> Place:
        return self.place.item(key) if isinstance(self.target, tuple) else self.place.attribute(key)

    def put_back(self, entries: dict[Any, Any]) -> None:
        """Nothing can have changed."""


class SetOfItems(Holder):
    """A set."""

    has_places = False

    def entries(self) -> dict[Any, Any]:
        return {"number of items": len(self.target)} if len(self.target) > _MOST_ITEMS else {"items": frozenset(self.target)}

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - the items of a set have no places of their own
        return self.place

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:
        target, items = self.target, frozenset(self.target)
        return None if ignored else lambda: target == items

    def put_back(self, entries: dict[Any, Any]) -> None:
        if "items" in entries and isinstance(self.target, set):
            set.clear(self.target)
            set.update(self.target, entries["items"])


class Array(Holder):
    """A NumPy array of numbers, by its content where that is not long."""

    has_places = False

    def entries(self) -> dict[Any, Any]:
        return {"content": self._content() if self.target.nbytes <= _MOST_BYTES_KEPT else None}

    def _content(self) -> bytes:
        return np.ndarray.tobytes(self.target)  # that of a subclass may do other things

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - the elements of an array have no places of their own
        return self.place

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:
        is_compared_in_parts = _MOST_BYTES < self.target.nbytes <= _MOST_BYTES_KEPT and self.target.flags.c_contiguous
        return same_parts_of_array(self.target) if is_compared_in_parts and not ignored else super().check(ignored)

    def put_back(self, entries: dict[Any, Any]) -> None:
        if entries["content"] is not None and self.target.flags.writeable and self._content() != entries["content"]:
            np.asarray(self.target)[...] = np.frombuffer(entries["content"], self.target.dtype).reshape(self.target.shape)


class ArrayOfObjects(Holder):
    """A NumPy array of Python objects."""

    def entries(self) -> dict[Any, Any]:
        size = self.target.size
        return {"number of items": size} if size > _MOST_ITEMS else dict(np.ndenumerate(np.asarray(self.target)))

    def place_of(self, key: Any) -> Place:
        return self.place.item(key)

    def put_back(self, entries: dict[Any, Any]) -> None:
        for index, item in entries.items() if self.target.size <= _MOST_ITEMS else ():
            self.target[index] = item


def holder_of_array(place: Place, target: np.ndarray[Any, Any], names: Names) -> Array | ArrayOfObjects:
    """The holder of a NumPy array."""
    return (ArrayOfObjects if target.dtype == object else Array)(place, target, names)


class Memory(Holder):
    """Memory of numbers, by its bytes where these are not many: an ``array``, a ``bytearray``, a view of one, a number in C."""

    has_places = False

    def entries(self) -> dict[Any, Any]:
        try:
            with memoryview(self.target) as view:
                return {"content": view.tobytes() if view.nbytes <= _MOST_BYTES else view.nbytes}
        except ValueError:  # the view was released
            return {"content": None}

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - numbers in memory have no places of their own
        return self.place

    def put_back(self, entries: dict[Any, Any]) -> None:
        content = entries["content"]
        if not isinstance(content, bytes) or self.entries() == entries:
            return
        if isinstance(self.target, bytearray):
            self.target[:] = content
        elif isinstance(self.target, array_of_numbers):
            self.target[:] = array_of_numbers(self.target.typecode, content)
        else:
            with memoryview(self.target) as view:
                if view.c_contiguous and not view.readonly:
                    view.cast("B")[:] = content


class TextInMemory(Holder):
    """An ``io.StringIO`` or ``io.BytesIO``: its content, and where it is read or written next."""

    has_places = False

    def entries(self) -> dict[Any, Any]:
        if self.target.closed:
            return {"content": None}
        return {"content": self.target.getvalue(), "position": self.target.tell()}

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - a text has no places
        return self.place

    def put_back(self, entries: dict[Any, Any]) -> None:
        if entries["content"] is not None and not self.target.closed:
            self.target.seek(0)
            self.target.truncate()
            self.target.write(entries["content"])
            self.target.seek(entries["position"])


class WeakReference(Holder):
    """A weak reference, which leads to an object as long as that is alive; one to a method makes it anew each time."""

    is_view = True

    def entries(self) -> dict[Any, Any]:
        referent = self.target()
        if isinstance(referent, types.MethodType):
            return {"__self__": referent.__self__, "__func__": referent.__func__}
        return {} if referent is None else {"": referent}

    def place_of(self, key: Any) -> Place:
        return self.place.referent().attribute(key) if key else self.place.referent()

    def put_back(self, entries: dict[Any, Any]) -> None:
        """Nothing can have changed."""


class WeakProxy(Holder):
    """A weak proxy, which passes for the object that it refers to as long as that is alive."""

    is_view = True
    has_own_description = False

    def entries(self) -> dict[Any, Any]:
        referent = referent_of(self.target)
        return {} if referent is None else {"": referent}

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - there is one
        return self.place.referent()

    def put_back(self, entries: dict[Any, Any]) -> None:
        """Nothing can have changed."""


class ContextVariable(Holder):
    """A ``contextvars.ContextVar``: its value in the current context, where it has one."""

    has_own_description = False

    def entries(self) -> dict[Any, Any]:
        try:
            return {"": self.target.get()}
        except LookupError:
            return {}

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - there is one
        return self.place.referent()

    def put_back(self, entries: dict[Any, Any]) -> None:
        self.target.set(entries.get(""))  # it cannot be made unset; most code asks for ``get(None)`` then


class RandomGenerator(Holder):
    """A random generator of Python's or NumPy's, by its state."""

    has_places = False

    def entries(self) -> dict[Any, Any]:
        if isinstance(self.target, random.Random):
            return {"state": self.target.getstate()}
        if isinstance(self.target, np.random.RandomState):
            return {"state": _comparable(self.target.get_state(legacy=False))}
        return {"state": _comparable(self.target.bit_generator.state)}

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - a state has no place of its own
        return self.place

    def put_back(self, entries: dict[Any, Any]) -> None:
        if isinstance(self.target, random.Random):
            self.target.setstate(entries["state"])
        elif isinstance(self.target, np.random.RandomState):
            self.target.set_state(_usable(entries["state"]))
        else:
            self.target.bit_generator.state = _usable(entries["state"])


def _comparable(state: Any) -> Any:
    """A state of NumPy's as nested tuples: arrays compare by element."""
    if isinstance(state, dict):
        return tuple((key, _comparable(value)) for key, value in state.items())
    return ("array", str(state.dtype), tuple(state.tolist())) if isinstance(state, np.ndarray) else state


def _usable(state: Any) -> Any:
    if isinstance(state, tuple) and state and state[0] == "array":
        return np.array(state[2], dtype=state[1])
    return {key: _usable(value) for key, value in state} if isinstance(state, tuple) else state
