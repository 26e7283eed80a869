"""What a forward leaves behind in Python state, as data: every planned call leaves the same behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from remat_planner.tracer.joint.output_tree import TreeOfLeaves
from remat_planner.tracer.python_state import Attributes, ContextVariable, Function, Holder, Place, Roots, is_plain, same

EXTEND = "extend"
REPLACE = "replace"


@dataclass(frozen=True)
class Effect:
    """One change of Python state.

    Attributes:
        place: where the object is that changes.
        holder: its kind.
        key: the entry that is set; ``EXTEND`` for items added to a list or set, ``REPLACE`` for a whole new content.
        label: the name of what changes, for messages.
        spec: how the new value is put together from its leaves.
        leaves: number of leaves of the new value.
        once: the first forward alone makes it, as a library does that installs hooks and notes in a flag that it has.
        adds: is added to the integer that is there, whatever the new value was when the step was recorded.
    """

    label: str
    place: Place
    holder: type[Holder]
    key: Any
    spec: TreeOfLeaves
    leaves: int
    once: bool = False
    adds: int | None = None

    def is_there(self, roots: Roots, leaves: Sequence[Any]) -> bool:
        """Whether the entry is a number or alike, and is set already."""
        if len(leaves) != 1 or not is_plain(leaves[0]) or self.key is EXTEND or self.key is REPLACE:
            return False
        entries = self.holder(self.place, self.place.find(roots), None).entries()
        return self.key in entries and same(entries[self.key], leaves[0])

    def apply(self, roots: Roots, leaves: Sequence[Any]) -> None:
        """Make the change.

        Raises:
            LookupError: the object that changes is not there any more.
        """
        value = self.spec.unflatten(leaves)
        target = self.place.find(roots)
        if self.adds is not None:  # a ``Counter`` begins with 0
            value = self.holder(self.place, target, None).entries().get(self.key, 0) + self.adds
        if self.key is EXTEND:
            target.update(value) if isinstance(target, set) else _kind(target).extend(target, value)
        elif self.key is REPLACE:
            self.holder(self.place, target, None).put_back(value)
        elif issubclass(self.holder, ContextVariable):
            target.set(value)
        elif issubclass(self.holder, Function) and self.key[0] == "attribute":
            vars(target)[self.key[1]] = value
        elif issubclass(self.holder, Function):
            self.holder(self.place, target, None).place_of(self.key).put(roots, value)
        elif issubclass(self.holder, Attributes):
            vars(target)[self.key] = value
        elif hasattr(target, "__setitem__"):
            target[self.key] = value
        else:
            setattr(target, self.key, value)


def _kind(items: Any) -> Any:
    return deque if isinstance(items, deque) else list


@dataclass(frozen=True)
class Effects:
    """All that a forward leaves behind, in the order in which it is made."""

    made: tuple[Effect, ...] = ()

    def apply(self, roots: Roots, leaves: Sequence[Any]) -> None:
        """Make all changes; ``leaves`` are those of the new values, one after the other.

        Where a flag says that a forward of eager has made those of a first forward, they are left out.

        Raises:
            LookupError: an object that changes is not there any more.
        """
        changes = [(effect, leaves[own]) for effect, own in zip(self.made, self._own_leaves, strict=True)]
        had_a_first = any(effect.once and effect.is_there(roots, own) for effect, own in changes)
        for effect, own in changes:
            if not (effect.once and had_a_first):
                effect.apply(roots, own)

    def partly_there(self, roots: Roots, leaves: Sequence[Any]) -> tuple[str, ...]:
        """Names of the entries that are not there, of those that a first forward sets, where others are.

        Whether eager would set them depends on code that a planned call does not run. ``leaves`` are as in ``apply``.
        """
        plain = [(e, leaves[own]) for e, own in zip(self.made, self._own_leaves, strict=True) if e.once and e.leaves == 1]
        there = {effect.label: effect.is_there(roots, own) for effect, own in plain if is_plain(own[0])}
        return tuple(label for label, is_there in there.items() if not is_there) if any(there.values()) else ()

    @property
    def keys(self) -> dict[str, frozenset[Any]]:
        """The keys that are set, by the label of the object."""
        found: dict[str, frozenset[Any]] = {}
        for effect in self.made:
            found[effect.place.label] = found.get(effect.place.label, frozenset()) | {effect.key}
        return found

    @cached_property
    def _own_leaves(self) -> list[slice]:
        ends = accumulate(effect.leaves for effect in self.made)
        return [slice(end - effect.leaves, end) for effect, end in zip(self.made, ends, strict=True)]
