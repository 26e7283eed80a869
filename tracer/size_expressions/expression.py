"""A number that is computed from sizes, and the operators that compute one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from remat_planner.tracer.size_expressions.polynomials import Polynomial

INFIX = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "truediv": operator.truediv,
    "pow": operator.pow,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "eq": operator.eq,
    "lt": operator.lt,
    "le": operator.le,
}
TEXTS = {
    "floordiv": "//",
    "mod": "%",
    "truediv": "/",
    "pow": "**",
    "lshift": "<<",
    "rshift": ">>",
    "bitwise_and": "&",
    "bitwise_or": "|",
    "bitwise_xor": "^",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "eq": "==",
    "lt": "<",
    "le": "<=",
}
CALLED: dict[str, Callable[..., Any]] = {
    "float": float,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
    "round": round,
    "abs": abs,
    "min": min,
    "max": max,
    "is_integer": float.is_integer,
    "int": int,
}
MATHEMATICS = ("sqrt", "cos", "cosh", "sin", "sinh", "tan", "tanh", "asin", "acos", "atan", "log2", "log", "log10", "exp")
"""Functions of the module ``math``."""
CALLED |= {name: getattr(math, name) for name in MATHEMATICS}


class Expression:
    """A number for the sizes of this call, and how it is computed for others. Equal ones are one object.

    Attributes:
        value: the number: an int, a float or a bool.
        operator: what computes it; "constant", "symbol" and "polynomial" among others.
        operands: of the operator.
        terms: of an integer, as a polynomial; else None.
        range: bounds of it, for all sizes.
        is_number: whether it is the same for all sizes.
        free_symbols: the sizes that it is computed from, as PyTorch asks for them.
    """

    __slots__ = ("free_symbols", "is_number", "operands", "operator", "range", "terms", "value")
    is_Symbol = is_Boolean = False  # noqa: N815  PyTorch asks its own expressions so
    args = ()

    def __init__(
        self,
        value: Any,
        operator: str,
        operands: tuple[Any, ...],
        terms: Polynomial | None,
        bounds: tuple[float, float],
        free_symbols: frozenset[Any],
    ) -> None:
        self.value, self.operator, self.operands, self.terms, self.range = value, operator, operands, terms, bounds
        self.free_symbols = free_symbols
        self.is_number = not free_symbols

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        """A name: PyTorch writes code with it, which is not run."""
        return f"{self.operator.replace(' ', '_')}_{id(self):x}"


def value_of(name: str, values: Sequence[Any]) -> Any:
    """What an operator computes from numbers."""
    match name:
        case "is zero":
            return values[0] == 0
        case "is no less than zero":
            return values[0] >= 0
        case "not":
            return not values[0]
        case "and":
            return bool(values[0] and values[1])
        case "or":
            return bool(values[0] or values[1])
        case "neg":
            return -values[0]
    return (INFIX.get(name) or CALLED[name])(*values)


def range_of(name: str, operands: Sequence[Expression]) -> tuple[float, float]:
    """Bounds of an integer that an operator computes."""
    if name == "floordiv" and operands[0].range[0] >= 0 and operands[1].range[0] > 0:
        return operands[0].range[0] // operands[1].range[1], operands[0].range[1] // operands[1].range[0]
    if name == "mod" and operands[1].range[0] > 0:
        return 0, operands[1].range[1] - 1
    return -math.inf, math.inf
