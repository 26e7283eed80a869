"""What a forward finds in the place of a list that each forward extends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

_OPERATIONS = (
    *("len", "bool", "iter", "reversed", "contains", "getitem", "setitem", "delitem", "copy", "deepcopy", "reduce_ex"),
    *("eq", "ne", "lt", "le", "gt", "ge", "add", "radd", "mul", "rmul", "imul", "hash", "str", "repr", "format"),
)


class GrowingList:
    """In the place of the list or deque ``target``. To extend it is all that can be done with it; else it calls ``refuse``."""

    __slots__ = ("_expected", "refuse", "target")

    def __init__(self, target: Any, refuse: Callable[[], NoReturn]) -> None:
        self.target = target
        self.refuse = refuse
        self._expected = deque(target, getattr(target, "maxlen", None))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.target)

    def append(self, item: Any) -> None:
        self.extend([item])

    def extend(self, items: Iterable[Any]) -> None:
        more = list(items)
        self._expected.extend(more)
        (deque if isinstance(self.target, deque) else list).extend(self.target, more)

    def __iadd__(self, items: Iterable[Any]) -> GrowingList:
        self.extend(items)
        return self

    def __getattr__(self, _name: str) -> NoReturn:
        self.refuse()

    def refuse_extended_elsewhere(self) -> None:
        """Refuse a list that was extended by another name, where what else is done with it is not seen."""
        if list(map(id, self.target)) != list(map(id, self._expected)):
            self.refuse()


def _refused(items: GrowingList, *_: Any) -> NoReturn:
    items.refuse()


for _operation in _OPERATIONS:
    setattr(GrowingList, f"__{_operation}__", _refused)
