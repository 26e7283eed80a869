"""Integers in Python state that each forward counts up, and uses for nothing: ``self.calls += 1``, ``counter["steps"] += 1``.

The second recording finds something in their places that can be counted up and no more. Where the forward does so by the same
number as the first time, each planned call does.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NoReturn

from remat_planner.tracer.errors import PythonStateError
from remat_planner.tracer.joint import holds_inside
from remat_planner.tracer.python_state import Change, CountedNumber
from remat_planner.tracer.refusals import python_state_error


class CountedNumbers:
    """Those of one recording."""

    def __init__(self) -> None:
        self._used: PythonStateError | None = None

    def in_place_of(self, change: Change, key: Any) -> Any:
        """What the second forward finds where the first one left ``change``, under ``key``."""
        value, before = change.after[key], _number_before(change, key)
        if type(value) is not int or before is None or before == value:
            return value
        name = change.holder.name_of(key)

        def refuse() -> NoReturn:
            self._used = self._used or python_state_error([name])
            raise self._used

        return CountedNumber((change.holder.place.label, key), 0, refuse)

    def refuse_used(self, output: Any) -> None:
        """Refuse a forward that has used such a number, or returns one in its ``output``.

        Raises:
            PythonStateError: it has.
        """
        if holds_inside(output, CountedNumber):
            raise python_state_error(["a number in the output, which counts"])
        if self._used is not None:
            raise self._used


def counted_by(change: Change, key: Any, again: Change) -> int | None:
    """What both forwards add to the integer under ``key``; None where it is none, or they do otherwise."""
    before, after, then = _number_before(change, key), change.after.get(key), again.after.get(key)
    if before is None or type(after) is not int or not isinstance(then, CountedNumber):
        return None
    return then.added if then.of == (change.holder.place.label, key) and after == before + then.added else None


def _number_before(change: Change, key: Any) -> int | None:
    """The integer under ``key`` before the forward; 0 where the container counts from there by itself."""
    before, target = change.before.get(key), change.holder.target
    if key not in change.before and (isinstance(target, Counter) or getattr(target, "default_factory", None) is int):
        return 0
    return before if type(before) is int else None
