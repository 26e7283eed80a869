"""Numbers that are others in each step, and on which nothing may depend that the step computes.

A forward reads one from a tensor (``x.item()``) and hands it on unread: it returns it, or keeps it in Python state. Or it
counts one up in Python state (``self.calls += 1``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from remat_planner.tracer.draw_range import DrawRange

_OPERATIONS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul"),
    *("neg", "pos", "abs", "invert", "round", "trunc", "floor", "ceil", "int", "float", "complex", "index", "bool"),
    *("eq", "ne", "lt", "le", "gt", "ge", "hash", "format", "str", "repr", "bytes", "reduce_ex", "array", "iter", "len"),
)


class ReadNumber:
    """In the place of a number that is read from a tensor. To use it as a number is an error.

    Code that asks for its class, as ``isinstance`` does, is told that of the number.

    Args:
        tensor: holds the number.
        refuse: called where the number is used; raises.
        drawn: where it lies, if it is a random draw. What is the same for all numbers there may be asked.
    """

    __slots__ = ("__weakref__", "drawn", "refuse", "tensor")

    def __init__(self, tensor: torch.Tensor, refuse: Callable[[], NoReturn], drawn: DrawRange | None = None) -> None:
        self.tensor = tensor
        self.refuse = refuse
        self.drawn = drawn

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # the class that the number has
        if self.tensor.dtype is torch.bool:
            return bool
        return complex if self.tensor.is_complex() else float if self.tensor.is_floating_point() else int

    def __copy__(self) -> ReadNumber:
        return self

    def __deepcopy__(self, _memo: Any) -> ReadNumber:
        return self

    def __int__(self) -> int:
        whole = None if self.drawn is None else self.drawn.whole
        return self.refuse() if whole is None else whole

    def __lt__(self, other: Any) -> bool:
        return self._compared("lt", other)

    def __le__(self, other: Any) -> bool:
        return self._compared("le", other)

    def __gt__(self, other: Any) -> bool:
        return self._compared("gt", other)

    def __ge__(self, other: Any) -> bool:
        return self._compared("ge", other)

    def _compared(self, operation: str, other: Any) -> bool:
        answer = self.drawn.compared(operation, other) if self.drawn is not None and type(other) in (int, float) else None
        return self.refuse() if answer is None else answer


class CountedNumber:
    """In the place of an integer that a forward counts up. To add another integer is all that can be done with it.

    Args:
        of: the place of the integer that was counted.
        added: what has been added.
        refuse: called where the number is used; raises.
    """

    __slots__ = ("added", "of", "refuse")

    def __init__(self, of: tuple[str, Any], added: int, refuse: Callable[[], NoReturn]) -> None:
        self.of = of
        self.added = added
        self.refuse = refuse

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return int

    def __add__(self, other: Any) -> CountedNumber:
        if type(other) is not int:
            self.refuse()
        return CountedNumber(self.of, self.added + other, self.refuse)

    def __sub__(self, other: Any) -> CountedNumber:
        if type(other) is not int:
            self.refuse()
        return CountedNumber(self.of, self.added - other, self.refuse)

    __radd__ = __add__


def is_read_number(value: Any) -> bool:
    """Whether ``value`` stands for a number that is read from a tensor."""
    return type(value) is ReadNumber


def stands_for_a_number(value: Any) -> bool:
    """Whether ``value`` is one of these, whose number is not known."""
    return type(value) in (ReadNumber, CountedNumber)


def _refused(number: ReadNumber | CountedNumber, *_: Any) -> NoReturn:
    number.refuse()


for _kind in (ReadNumber, CountedNumber):
    for _operation in _OPERATIONS:
        for _name in (f"__{_operation}__", f"__r{_operation}__"):
            if _name not in vars(_kind):
                setattr(_kind, _name, _refused)
