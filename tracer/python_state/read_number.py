"""A number that a forward reads from a tensor (``x.item()``) and hands on unread: it returns it, or keeps it in Python state.

Its value is unknown while the step is recorded, and other in each step. Nothing that the step computes may depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

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
    """

    __slots__ = ("__weakref__", "refuse", "tensor")

    def __init__(self, tensor: torch.Tensor, refuse: Callable[[], NoReturn]) -> None:
        self.tensor = tensor
        self.refuse = refuse

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # the class that the number has
        if self.tensor.dtype is torch.bool:
            return bool
        return complex if self.tensor.is_complex() else float if self.tensor.is_floating_point() else int

    def __copy__(self) -> ReadNumber:
        return self

    def __deepcopy__(self, _memo: Any) -> ReadNumber:
        return self


def is_read_number(value: Any) -> bool:
    """Whether ``value`` stands for a number that is read from a tensor."""
    return type(value) is ReadNumber


def _refused(number: ReadNumber, *_: Any) -> NoReturn:
    number.refuse()


for _operation in _OPERATIONS:
    for _name in (f"__{_operation}__", f"__r{_operation}__"):
        setattr(ReadNumber, _name, _refused)
