"""Iterators, queues and open files in Python state: a forward that takes items from one is refused by name.

A captured step would go on with the items that it got when it was planned. And the items cannot be put back: to record such a
forward would use them up, or wait for ever for one more. So each iterator and queue has a stand-in while a forward is recorded.
"""

from __future__ import annotations

import io
import itertools
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FunctionType
from typing import Any

from torch.utils import _pytree as pytree

from remat_planner.tracer.python_state import Holder, Namespace, Place, Roots, is_users_module
from remat_planner.tracer.record.provenance import user_line
from remat_planner.tracer.refusals import used_up_error

_METHODS = frozenset({"close", "get", "get_nowait", "join", "put", "put_nowait", "send", "task_done", "throw"})
"""Of iterators and queues, that take an item or put one in."""
_OF_FILES = frozenset({"read", "read1", "readinto", "readline", "readlines"})
_QUEUES = (queue.Queue, queue.SimpleQueue)


class UsedUp:
    """Puts stand-ins in the place of the iterators and queues that a forward can reach.

    Args:
        roots: the model and the arguments of the call.
        may_count: whether the forward may take numbers from an ``itertools.count``, as a first one does for the keys of what it
            installs once.
    """

    def __init__(self, roots: Roots, *, may_count: bool) -> None:
        self._roots = roots
        self._may_count = may_count
        self._stand_ins: dict[int, _StandIn] = {}
        self._put: list[tuple[Place, _StandIn, Callable[[], None]]] = []

    def refuse_inputs(self) -> None:
        """Refuse iterators and queues among the arguments of the call.

        Raises:
            PythonStateError: there is one.
        """
        for leaf in pytree.tree_leaves((self._roots.args, dict(self._roots.kwargs or {}))):
            if is_used_up(leaf):
                raise used_up_error("an argument", type(leaf), "")

    def replace_in(self, holder: Holder, entries: Iterable[tuple[Any, Any]]) -> None:
        """Replace those among the entries of ``holder``, as far as others can be put there.

        Globals of an installed package stay: it counts for itself.
        """
        if isinstance(holder, Namespace) and holder.is_of_package:
            return
        for key, value in entries:
            if not holder.has_places or not is_used_up(value) or (self._may_count and type(value) is itertools.count):
                continue
            place = holder.place_of(key)
            stand_in = self._stand_ins.setdefault(id(value), _StandIn(value, place.label))
            try:
                if place.find(self._roots) is value:
                    self._put.append((place, stand_in, place.put(self._roots, stand_in)))
            except (LookupError, TypeError, AttributeError, ValueError):  # the arguments of a partial function
                continue

    def put_back(self) -> None:
        """Put the iterators and queues back, where the forward did not put something else."""
        while self._put:
            place, stand_in, undo = self._put.pop()
            with suppress(LookupError):
                if place.find(self._roots) is stand_in:
                    undo()
        for stand_in in self._stand_ins.values():
            stand_in.release()


def is_used_up(value: Any) -> bool:
    """Whether ``value`` is an iterator or a queue. Of one of the user's in Python, what it holds is looked at instead."""
    kind = type(value)
    if issubclass(kind, (io.StringIO, io.BytesIO)):  # watched as what they hold
        return False
    written = isinstance(getattr(kind, "__next__", None), FunctionType) and is_users_module(kind.__module__)
    return issubclass(kind, _QUEUES) or (hasattr(kind, "__next__") and not written)


class _StandIn:
    """Passes for ``target`` but where this thread takes an item from it or puts one in."""

    def __init__(self, target: Any, name: str) -> None:
        self._target, self._name = target, name
        self._methods = _METHODS | _OF_FILES if isinstance(target, io.IOBase) else _METHODS
        self._is_hidden = isinstance(target, queue.SimpleQueue)  # what it holds cannot be watched
        self._thread: int | None = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        if self._is_hidden or name in self._methods:
            self._refuse()
        return getattr(self._target, name)

    def __iter__(self) -> Any:
        return self if hasattr(self._target, "__next__") else iter(self._target)

    def __next__(self) -> Any:
        self._refuse()
        return next(self._target)

    def __repr__(self) -> str:
        return repr(self._target)

    def release(self) -> None:
        """Pass for the target in all: the forward is over, and may have put this elsewhere."""
        self._thread = None

    def _refuse(self) -> None:
        if threading.get_ident() == self._thread:
            raise used_up_error(self._name, type(self._target), user_line(sys._getframe(2)))
