"""What a forward changes in Python state: a snapshot before it runs, compared and put back after it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

from remat_planner.tracer.python_state.attributes import Namespace
from remat_planner.tracer.python_state.containers import Sequence
from remat_planner.tracer.python_state.global_names import global_names
from remat_planner.tracer.python_state.holders import ABSENT, Holder, Names, same, same_entries
from remat_planner.tracer.python_state.places import Place
from remat_planner.tracer.python_state.walk import walk


@dataclass(frozen=True)
class Change:
    """An object whose content is another one after the forward.

    Attributes:
        holder: the object.
        before: its entries before the forward.
        after: its entries after the forward.
    """

    holder: Holder
    before: dict[Any, Any] = field(repr=False)
    after: dict[Any, Any] = field(repr=False)

    @property
    def keys(self) -> list[Any]:
        """The entries that differ."""
        keys = dict.fromkeys((*self.before, *self.after))
        return [key for key in keys if not same(self.before.get(key, ABSENT), self.after.get(key, ABSENT))]

    @property
    def is_reordered(self) -> bool:
        """Whether entries that are still there are in another order, where that matters."""
        return self.holder.is_ordered and _common(self.before, self.after) != _common(self.after, self.before)

    @property
    def names(self) -> list[str]:
        """Names of the entries that differ, for messages."""
        if not self.keys:
            return [f"the order of {self.holder.place.label}"]
        if not self.holder.has_places or (isinstance(self.holder, Sequence) and _is_rebuilt(self.before, self.after)):
            return [self.holder.place.label]
        return [self.holder.place_of(key).label for key in self.keys]


class Snapshot:
    """Python state as it is now, to compare with and to go back to.

    Args:
        starts: objects that the forward can reach, and where they are.
    """

    def __init__(self, starts: Iterable[tuple[Place, Any]]) -> None:
        self._seen: set[int] = set()
        self._labels: dict[str, int] = {}
        self._kept: list[tuple[Holder, dict[Any, Any]]] = []
        self._namespaces: dict[int, set[str]] = {}
        self._add(starts, None)

    @classmethod
    def of_function(cls, function: Callable[..., Any]) -> Snapshot:
        """What a function can reach by its variables, its object and the globals that its code names."""
        snapshot = cls([(Place("function", function, "object"), function)])
        while isinstance(function, functools.partial | MethodType):
            function = function.func if isinstance(function, functools.partial) else function.__func__
        if not isinstance(function, FunctionType):
            function = type(function).__call__
        if isinstance(function, FunctionType):
            snapshot._add_globals(function.__globals__, global_names(function.__code__))
        return snapshot

    def add_names_of(self, code: CodeType, frame: FrameType, caller: FrameType) -> None:
        """Include the globals that ``code`` names, also in modules, and the variables around it, as they are now.

        Args:
            code: code that is about to run.
            frame: in which it will run.
            caller: of the forward. What a call below it has as a variable was made by the forward, and is left out.
        """
        self._add_globals(frame.f_globals, global_names(code))
        for module in Namespace.named(frame.f_globals, frozenset(code.co_names))[1].modules():
            self._add_globals(module.target, frozenset(name for name in code.co_names if name in module.target))
        if code.co_freevars:
            variables = frame.f_locals
            names = [
                name for name in code.co_freevars if name in variables and not _is_local(name, variables[name], frame, caller)
            ]
            around = [(name, variables[name]) for name in names]
            label = f"variable of {code.co_name}"
            self._add(((Place(f"{name} ({label})", value, "object"), value) for name, value in around), None)

    def _add_globals(self, namespace: dict[str, Any], wanted: frozenset[str]) -> None:
        known = self._namespaces.setdefault(id(namespace), set())
        names = wanted - known
        known.update(names)
        if names:
            _, holder = Namespace.named(namespace, frozenset(names))
            entries = holder.entries()
            self._kept.append((holder, entries))
            self._add(((holder.place_of(name), value) for name, value in entries.items()), None)

    def add(self, holder: Holder) -> None:
        """Include one object as it is now, unless it is there, and what can be reached from it."""
        if id(holder.target) not in self._seen:
            self._seen.add(id(holder.target))
            if isinstance(holder, Namespace):
                self._namespaces.setdefault(id(holder.target), set()).update(holder.names or ())
            entries = holder.entries()
            self._kept.append((holder, entries))
            if holder.has_places:
                self._add(((holder.place_of(key), value) for key, value in entries.items()), None)

    @property
    def kept(self) -> list[tuple[Holder, dict[Any, Any]]]:
        """The objects that are included, each with its entries as they were, in the order in which they were included."""
        return self._kept

    @property
    def holders(self) -> list[Holder]:
        """The objects that are included, in the order in which they were."""
        return [holder for holder, _ in self._kept]

    def holds(self, wanted: Callable[[Any], bool]) -> bool:
        """Whether an object that is included holds one that is ``wanted``."""
        return any(wanted(value) for _, entries in self._kept for value in entries.values())

    def changes(self) -> list[Change]:
        """The objects whose content has changed since."""
        found = []
        for holder, before in self._kept:
            change = Change(holder, before, before if holder.is_view else holder.entries())
            if not same_entries(before, change.after) or change.is_reordered:
                found.append(change)
        return found

    def put_back(self) -> None:
        """Make everything what it was."""
        for holder, before in reversed(self._kept):  # a global may be among what was included early, and again later
            now = holder.entries()
            if holder.is_view or not same_entries(before, now) or Change(holder, before, now).is_reordered:
                holder.put_back(before)

    def _add(self, starts: Iterable[tuple[Place, Any]], names: Names) -> None:
        for holder in walk(starts, names, self._seen, self._labels):
            self._kept.append((holder, holder.entries()))


def _is_local(name: str, value: Any, frame: FrameType, caller: FrameType) -> bool:
    """Whether a variable around the code of ``frame`` belongs to a call below ``caller``, so that the forward made it."""
    above = frame.f_back
    while above is not None and above is not caller:
        if name in above.f_code.co_cellvars and above.f_locals.get(name) is value:
            return True
        above = above.f_back
    return False


def _common(one: dict[Any, Any], other: dict[Any, Any]) -> list[Any]:
    return [key for key in one if key in other]


def _is_rebuilt(before: dict[Any, Any], after: dict[Any, Any]) -> bool:
    return bool(before) and not any(same(value, after.get(key, ABSENT)) for key, value in before.items())
