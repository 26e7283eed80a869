"""Lists in Python state that each forward extends, and uses for nothing: ``self.losses.append(loss.item())``.

Each planned call can extend them as well. But two recordings do not show that nothing depends on what they hold
(``if len(self.bank) > 100``). So the second one finds something in their places that can be extended and no more.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import CellType
from typing import Any, NoReturn

from remat_planner.tracer.errors import PythonStateError
from remat_planner.tracer.joint import holds_inside
from remat_planner.tracer.python_state import Change, GrowingList, Holder, Roots, Sequence
from remat_planner.tracer.record.effects import added_items
from remat_planner.tracer.refusals import python_state_error


class GrownLists:
    """Those of one recording.

    Args:
        roots: the model and the arguments of the call.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._used: PythonStateError | None = None
        self._stand_ins: dict[int, GrowingList] = {}
        self._undo: list[Callable[[], None]] = []

    def begin(self, left_behind: Iterable[Change]) -> None:
        """Replace the lists that ``left_behind`` extended, where they are variables around a function."""
        for change in left_behind:
            if _has_grown(change):
                target, name = change.holder.target, change.holder.place.label
                if type(target) not in (list, deque):  # a subclass may do other things when it is extended
                    self._used = python_state_error([name])
                self._stand_ins[id(target)] = GrowingList(target, partial(self._refuse, name))
        targets = [stand_in.target for stand_in in self._stand_ins.values()]
        for cell in gc.get_referrers(*targets) if targets else ():
            if isinstance(cell, CellType):
                self._undo.append(partial(setattr, cell, "cell_contents", cell.cell_contents))
                cell.cell_contents = self._stand_ins[id(cell.cell_contents)]

    def replace_in(self, holder: Holder, entries: Iterable[tuple[Any, Any]]) -> None:
        """Replace those among the entries of ``holder``, as far as others can be put there."""
        for key, value in entries if self._stand_ins and holder.has_places else ():
            if (stand_in := self._stand_ins.get(id(value))) is not None:
                place = holder.place_of(key)
                with suppress(LookupError, TypeError, AttributeError, ValueError):
                    if place.find(self._roots) is value:
                        self._undo.append(place.put(self._roots, stand_in))

    def put_back(self) -> None:
        """Put the lists back."""
        while self._undo:
            self._undo.pop()()

    def refuse_used(self, output: Any) -> None:
        """Refuse a forward that has used such a list but to extend it, or returns one in its ``output``.

        Raises:
            PythonStateError: it has.
        """
        if holds_inside(output, GrowingList):
            raise python_state_error(["a list in the output, which grows"])
        if self._used is not None:
            raise self._used
        for stand_in in self._stand_ins.values():
            stand_in.refuse_extended_elsewhere()

    def _refuse(self, name: str) -> NoReturn:
        self._used = self._used or python_state_error([name])
        raise self._used


def _has_grown(change: Change) -> bool:
    """Whether a list got longer that is not among the arguments. A full deque of tensors, which turns, may be read."""
    is_list = isinstance(change.holder, Sequence) and change.holder.place.kind != "arguments"
    return is_list and len(change.after) > len(change.before) and added_items(change) is not None
