"""Python objects that hold others: what can be asked of each kind.

An object that is of no kind is opaque: it is told from others by identity.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Container, Iterable
from enum import Enum
from typing import Any, ClassVar

import torch

from remat_planner.tracer.python_state.places import Place
from remat_planner.tracer.python_state.tensor_entries import SeenTensor
from remat_planner.tracer.python_state.unknown_numbers import stands_for_a_number

Names = frozenset[str] | None
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, Enum)


class Holder(ABC):
    """An object that holds others, at ``place``."""

    def __init__(self, place: Place, target: Any, names: Names) -> None:
        self.place = place
        self.target = target
        self.names = names

    has_places: ClassVar[bool] = True
    """Whether its entries are objects of their own, with places, rather than a rendering of its content."""
    has_names: ClassVar[bool] = False
    """Whether its entries have names of their own, of which a forward can set one and leave the others alone."""
    is_ordered: ClassVar[bool] = False
    """Whether the order of its entries is part of what it holds, beside their keys."""
    is_view: ClassVar[bool] = False
    """Whether its entries are those of another object, with which they change."""
    has_own_description: ClassVar[bool] = True
    """Whether another object of the same content would do in its place."""

    @abstractmethod
    def entries(self) -> dict[Any, Any]:
        """What it holds, by key."""

    @abstractmethod
    def place_of(self, key: Any) -> Place:
        """Where the entry ``key`` is."""

    @abstractmethod
    def put_back(self, entries: dict[Any, Any]) -> None:
        """Make the entries what they were."""

    def name_of(self, key: Any) -> str:
        """The entry ``key`` for messages."""
        return self.place_of(key).label if self.has_places else self.place.label

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:  # noqa: ARG002
        """A mapping with the entries, and the keys that matter; None where no such mapping is at hand.

        All of these are compared in one go, which is much quicker than ``check``.
        """
        return None

    def is_all_in(self, ignored: Collection[Any]) -> bool:
        """Whether none of what it holds matters: where entries have no names, a forward sets single ones of a list, or all."""
        return bool(ignored) and not self.has_names and not all(isinstance(key, int) for key in ignored)

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:
        """A quick question whether the entries are the objects that they are now; False says: look closer.

        None where nothing can change.
        """
        if self.is_all_in(ignored) and not self.compared(ignored):
            return None
        kept = self._with_forms(ignored)
        return lambda: same_entries(kept, self._with_forms(ignored))

    def compared(self, ignored: Collection[Any]) -> dict[Any, Any]:
        """The entries without those that are ``ignored``. Of a list it matters that these are there, and nothing else."""
        if self.is_all_in(ignored):
            return {}
        if self.has_names:
            return {key: value for key, value in self.entries().items() if key not in ignored}
        return {key: True if key in ignored else value for key, value in self.entries().items()}

    def _with_forms(self, ignored: Collection[Any]) -> dict[Any, Any]:
        """The entries that matter, of tensors the form."""
        entries = self.compared(ignored).items()
        return {k: SeenTensor(v, is_constant=False) if isinstance(v, torch.Tensor) else v for k, v in entries}

    def wanted(self, keys: Iterable[Any]) -> list[Any]:
        """Those of ``keys`` that the forward's code can name."""
        return [key for key in keys if self.names is None or key in self.names]


class Absent:
    """In the place of an entry that is not there."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = Absent()


def same_entries(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    """Whether two contents are the same: each entry by identity, or equal where it is plain."""
    return len(one) == len(other) and all(same(value, other.get(key, ABSENT)) for key, value in one.items())


def same(one: Any, other: Any) -> bool:
    """Whether two entries are the same object, plain and equal, the items of equal sets, or tensors seen as the same."""
    if isinstance(one, (frozenset, SeenTensor)) and isinstance(other, (frozenset, SeenTensor)):
        return one == other
    return one is other or (is_plain(one) and is_plain(other) and plain_form(one) == plain_form(other))


def plain_form(value: Any) -> tuple[type, Any]:
    """Something that is equal for plain values that nothing tells apart: 0.0 equals -0.0, and (1,) equals (True,)."""
    return type(value), repr(value) if isinstance(value, _TOLD_BY_TEXT) else value


_TOLD_BY_TEXT = (float, complex, tuple)


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a number, a string or alike, or a tuple or frozenset of such."""
    if isinstance(value, (tuple, frozenset)):
        return all(map(is_plain, value))
    return isinstance(value, PLAIN) and not isinstance(value, torch.Tensor) and not stands_for_a_number(value)
