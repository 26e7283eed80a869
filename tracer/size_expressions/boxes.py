"""Boxes of sizes, and where in a box the answer to a question is another one.

A box is looked at whole by interval arithmetic. Where that leaves the question open, the box is halved, down to single sizes,
for which the answer is computed as Python does. So what is found is exact: it holds for every size of the box. This is branch
and bound over intervals (Moore, Kearfott, Cloud: Introduction to Interval Analysis, 2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from remat_planner.tracer.size_expressions.arithmetic import SizeArithmetic
from remat_planner.tracer.size_expressions.expression import Expression, value_of
from remat_planner.tracer.size_expressions.polynomials import Polynomial

Interval = tuple[Any, Any]
"""The least and the largest number; of an answer False and True, which are 0 and 1."""
Box = tuple[tuple[int, int], ...]
"""The least and the largest size for each symbol."""

_MOST_BOXES = 20_000
"""Boxes that are looked at for one question; a box of all lengths up to some thousands has fewer."""
_UNKNOWN: Interval = (-math.inf, math.inf)
_RISING = ("float", "floor", "ceil", "trunc", "round", "int", "sqrt", "exp", "log", "log2", "log10", "add", "min", "max")
"""Operators whose result does not fall where an operand rises; rounding keeps that."""
_POSITIVE = ("mul", "truediv", "floordiv")
"""Operators that rise or fall with each operand, where all operands are positive."""


class UndecidedError(Exception):
    """A question has other answers in too many places of a box."""


def where_not(arithmetic: SizeArithmetic, question: Expression, answer: bool, box: Box) -> list[Box]:
    """The boxes inside ``box`` in which the answer to ``question`` is not ``answer``; together they are all of these sizes.

    Raises:
        UndecidedError: there are too many.
    """
    places = [k for k, symbol in enumerate(arithmetic.symbols) if symbol.free_symbols <= question.free_symbols]
    found: list[Box] = []
    open_boxes, count = [box], 0
    while open_boxes:
        count += 1
        if count > _MOST_BOXES:
            raise UndecidedError
        here = open_boxes.pop()
        least, largest = _Over(arithmetic, here).interval(question)
        if bool(least) == bool(largest):
            if bool(least) != answer:
                found.append(here)
            continue
        longest = max(places, key=lambda k: here[k][1] - here[k][0])
        low, high = here[longest]
        if low == high:  # it cannot be computed for this size, so the step is another one there
            found.append(here)
            continue
        middle = (low + high) // 2
        open_boxes += [_with(here, longest, (low, middle)), _with(here, longest, (middle + 1, high))]
    return merged(found)


def without(box: Box, other: Box) -> Iterator[Box]:
    """``box`` without the sizes of ``other``, as boxes that do not overlap."""
    if any(low > high or high < low for low, high in box) or not _overlap(box, other):
        yield box
        return
    for k, ((low, high), (from_, to)) in enumerate(zip(box, other, strict=True)):
        if low < from_:
            yield _with(box, k, (low, from_ - 1))
        if high > to:
            yield _with(box, k, (to + 1, high))
        box = _with(box, k, (max(low, from_), min(high, to)))


def merged(boxes: Iterable[Box]) -> list[Box]:
    """The same sizes in fewer boxes: two that lie side by side become one."""
    left = sorted(boxes)
    is_less = True
    while is_less:
        is_less = False
        for k in range(len(left[0]) if left else 0):
            joined: dict[Any, list[tuple[int, int]]] = {}
            for box in left:
                joined.setdefault((*box[:k], *box[k + 1 :]), []).append(box[k])
            together = [
                (*others[:k], interval, *others[k:]) for others, intervals in joined.items() for interval in _joined(intervals)
            ]
            is_less |= len(together) < len(left)
            left = together
    return sorted(left)


def _joined(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for low, high in sorted(intervals):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return result


def _overlap(box: Box, other: Box) -> bool:
    return all(low <= to and from_ <= high for (low, high), (from_, to) in zip(box, other, strict=True))


def _with(box: Box, place: int, interval: tuple[int, int]) -> Box:
    return (*box[:place], interval, *box[place + 1 :])


class _Over:
    """Intervals of numbers for all sizes of a box."""

    def __init__(self, arithmetic: SizeArithmetic, box: Box) -> None:
        self._atoms = arithmetic.atoms
        self._known: dict[Expression, Interval] = dict(zip(arithmetic.symbols, box, strict=True))

    def interval(self, expression: Expression) -> Interval:
        """Bounds of ``expression``; both are its exact value where the box has one size."""
        known = self._known.get(expression)
        if known is None:
            if expression.is_number:
                known = (expression.value, expression.value)
            elif expression.operator == "polynomial":
                assert expression.terms is not None
                known = self._of_polynomial(expression.terms)
            else:
                known = _of_operator(expression.operator, list(map(self.interval, expression.operands)))
            self._known[expression] = known
        return known

    def _of_polynomial(self, terms: Polynomial) -> Interval:
        least: Any = 0
        largest: Any = 0
        for monomial, coefficient in terms.items():
            low: Any = coefficient
            high: Any = coefficient
            for atom in monomial:
                low, high = _ends((low, high), self.interval(self._atoms[atom]))
            least, largest = least + low, largest + high
        return least, largest


def _ends(one: Interval, other: Interval) -> Interval:
    """Bounds of a product."""
    products = [0 if not (a and b) else a * b for a in one for b in other]
    return min(products), max(products)


def _of_operator(name: str, operands: Sequence[Interval]) -> Interval:
    if all(low == high for low, high in operands):
        try:
            value = value_of(name, [low for low, _ in operands])
        except ArithmeticError:  # a size for which it cannot be computed has another answer
            return _UNKNOWN
        return value, value
    (low, high), (from_, to) = operands[0], operands[-1]
    match name:
        case "is zero":
            return (False, False) if low > 0 or high < 0 else (False, True)
        case "is no less than zero":
            return low >= 0, high >= 0
        case "not":
            return not high, not low
        case "and":
            return low and from_, high and to
        case "or":
            return low or from_, high or to
        case "le":
            return high <= from_, low <= to
        case "lt":
            return high < from_, low < to
        case "eq":
            return False, low <= to and from_ <= high
        case "neg":
            return -high, -low
        case "sub":
            return low - to, high - from_
        case "mod" if from_ == to > 0 and math.isfinite(low) and math.isfinite(high):
            return (low % to, high % to) if low // to == high // to else (0, to - 1)
    if any(map(math.isinf, (low, high, from_, to))):
        return _UNKNOWN
    try:
        if name in _RISING:
            return value_of(name, [of[0] for of in operands]), value_of(name, [of[1] for of in operands])
        if name in _POSITIVE and low >= 0 and from_ > 0:
            first, last = (from_, to) if name == "mul" else (to, from_)
            return value_of(name, [low, first]), value_of(name, [high, last])
    except (ArithmeticError, ValueError):
        pass
    return _UNKNOWN
