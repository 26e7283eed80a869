"""Computes with sizes, answers what is asked of them, and collects the answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from remat_planner.tracer.size_expressions.expression import INFIX, MATHEMATICS, Expression, range_of, value_of
from remat_planner.tracer.size_expressions.polynomials import Polynomial, added, exact_quotient, leading_monomial, product

BOUNDS = (2, 1 << 40)
"""Bounds of a size: operators broadcast 1, and skip 0."""
_LARGEST_EXPONENT = 8
"""Powers up to this one are multiplied out."""
_MOST_TERMS = 64
"""Of a product that is multiplied out."""


class SizeArithmetic:
    """Computes with sizes, and collects the conditions.

    Args:
        where: says where the code asks that is running; it is called at each new condition.

    Attributes:
        symbols: the sizes, then the numbers of the caller.
        conditions: each question with its answer.
        sources: each question with what ``where`` said.
        atoms: what polynomials are of: the sizes, and integers that other operators compute.
    """

    def __init__(self, where: Callable[[], str] = lambda: "") -> None:
        self.symbols: list[Expression] = []
        self.conditions: dict[Expression, bool] = {}
        self.sources: dict[Expression, str] = {}
        self._where = where
        self.atoms: list[Expression] = []
        self._known: dict[Any, Expression] = {}
        self._applied: dict[tuple[str, tuple[Expression, ...]], Expression] = {}

    def symbol(self, value: int, name: Any, bounds: tuple[int, int] = BOUNDS) -> Expression:
        """A size within ``bounds``; ``name`` is what PyTorch knows it by."""
        symbol = Expression(value, "symbol", (), None, bounds, frozenset([name]))
        symbol.terms = {(len(self.atoms),): 1}
        self.atoms.append(symbol)
        self.symbols.append(symbol)
        self._known["int", frozenset(symbol.terms.items())] = symbol
        return symbol

    def number(self, value: float, name: Any) -> Expression:
        """A number that the caller gives, and that may be any other one."""
        number = Expression(value, "symbol", (), None, (-math.inf, math.inf), frozenset([name]))
        self.symbols.append(number)
        return number

    def constant(self, value: Any) -> Expression:
        """A number that is the same for all sizes."""
        if type(value) is int:
            return self._integer({(): value} if value else {})
        key = "constant", type(value), value.hex() if isinstance(value, float) else value
        if key not in self._known:
            self._known[key] = Expression(value, "constant", (), None, (-math.inf, math.inf), frozenset())
        return self._known[key]

    def apply(self, name: str, *operands: Expression) -> Expression:
        """The number that an operator computes; see ``_OPERATORS``."""
        key = name, operands
        result = self._applied.get(key)
        if result is None:
            result = self._applied[key] = _OPERATORS[name](self, *operands)
        return result

    def decide(self, question: Expression) -> Any:
        """The value, which has to be the same for other sizes."""
        if question.is_number:
            return question.value
        if question.operator == "not":
            self.decide(question.operands[0])
        elif question.operator in ("and", "or"):
            settled_by = question.operator == "or"  # by one operand with this value; else all have to stay
            one = next((operand for operand in question.operands if bool(operand.value) is settled_by), None)
            for operand in question.operands if one is None else (one,):
                self.decide(operand)
        elif isinstance(question.value, bool):
            if question not in self.conditions:
                self.conditions[question] = question.value
                self.sources[question] = self._where()
        else:
            self.decide(self.equal(question, self.constant(question.value)))
        return question.value

    def equal(self, one: Expression, other: Expression) -> Expression:
        """Whether two numbers are equal."""
        if one.terms is None or other.terms is None:
            return self._operation("eq", one, other)
        difference = added(one.terms, other.terms, -1)
        if difference and difference[leading_monomial(difference)] < 0:
            difference = {monomial: -coefficient for monomial, coefficient in difference.items()}
        return self._compared("is zero", difference, lambda least, largest: None if least <= 0 <= largest else False)

    def at_least(self, one: Expression, other: Expression, by: int = 0) -> Expression:
        """Whether an integer is another one or larger, ``by`` so much."""
        assert one.terms is not None
        assert other.terms is not None
        difference = added(added(one.terms, other.terms, -1), {(): by} if by else {}, -1)
        return self._compared(
            "is no less than zero", difference, lambda least, largest: True if least >= 0 else False if largest < 0 else None
        )

    def _compared(self, name: str, difference: Polynomial, known: Callable[[float, float], bool | None]) -> Expression:
        number = self._integer(difference)
        if number.is_number:
            return self.constant(number.value == 0 if name == "is zero" else number.value >= 0)
        answer = known(*number.range)
        return self._operation(name, number) if answer is None else self.constant(answer)

    def larger(self, one: Expression, other: Expression, sign: int = 1) -> Expression:
        """The larger of two numbers, or the smaller; that it is this one is a condition."""
        if one.terms is None or other.terms is None:
            return self._operation("max" if sign > 0 else "min", one, other)
        return one if self.decide(self.at_least(one, other)) == (sign > 0) else other

    def _integer(self, terms: Polynomial) -> Expression:
        key = "int", frozenset(terms.items())
        known = self._known.get(key)
        if known is None:
            used = {atom for monomial in terms for atom in monomial}
            value = sum(c * math.prod(self.atoms[atom].value for atom in m) for m, c in terms.items())
            known = self._known[key] = Expression(
                value,
                "polynomial" if used else "constant",
                (),
                terms,
                self._range(terms),
                frozenset().union(*(self.atoms[atom].free_symbols for atom in used)),
            )
        return known

    def _range(self, terms: Polynomial) -> tuple[float, float]:
        least: float = 0
        largest: float = 0
        for monomial, coefficient in terms.items():
            low: float = 1
            high: float = 1
            for atom in monomial:
                ends = [a * b for a in (low, high) for b in self.atoms[atom].range if not (a == 0 and math.isinf(b))] or [0]
                low, high = min(ends), max(ends)
            ends = [coefficient * low, coefficient * high]
            least, largest = least + min(ends), largest + max(ends)
        return least, largest

    def _operation(self, name: str, *operands: Expression) -> Expression:
        """The result of an operator that stays as it is."""
        key = name, *operands
        known = self._known.get(key)
        if known is None:
            value = value_of(name, [operand.value for operand in operands])
            if all(operand.is_number for operand in operands):
                known = self.constant(value)
            else:
                symbols = frozenset().union(*(operand.free_symbols for operand in operands))
                known = Expression(value, name, operands, None, range_of(name, operands), symbols)
                if type(value) is int:
                    known.terms = {(len(self.atoms),): 1}
                    self.atoms.append(known)
                    self._known["int", frozenset(known.terms.items())] = known
            self._known[key] = known
        return known

    def _add(self, one: Expression, other: Expression, sign: int = 1) -> Expression:
        if one.terms is None or other.terms is None:
            return self._operation("add" if sign > 0 else "sub", one, other)
        return self._integer(added(one.terms, other.terms, sign))

    def _multiply(self, one: Expression, other: Expression) -> Expression:
        if one.terms is None or other.terms is None or len(one.terms) * len(other.terms) > _MOST_TERMS:
            return self._operation("mul", one, other)
        return self._integer(product(one.terms, other.terms))

    def _divide(self, one: Expression, other: Expression) -> Expression:
        if one.terms is None or other.terms is None:
            return self._operation("floordiv", one, other)
        self.decide(self.equal(other, self.constant(0)))
        quotient = exact_quotient(one.terms, other.terms)
        return self._operation("floordiv", one, other) if quotient is None else self._integer(quotient)

    def _remainder(self, one: Expression, other: Expression) -> Expression:
        if one.terms is None or other.terms is None:
            return self._operation("mod", one, other)
        self.decide(self.equal(other, self.constant(0)))
        is_exact = exact_quotient(one.terms, other.terms) is not None
        return self.constant(0) if is_exact else self._operation("mod", one, other)

    def _power(self, one: Expression, other: Expression) -> Expression:
        if one.terms is None or not other.is_number or not 0 <= other.value <= _LARGEST_EXPONENT:
            return self._operation("pow", one, other)
        result = self.constant(1)
        for _ in range(other.value):
            result = self._multiply(result, one)
        return result

    def _negative(self, one: Expression) -> Expression:
        return self._add(self.constant(0), one, -1) if one.terms is not None else self._operation("neg", one)

    def _less(self, one: Expression, other: Expression, *, or_equal: bool) -> Expression:
        if one.terms is None or other.terms is None:
            return self._operation("le" if or_equal else "lt", one, other)
        return self.at_least(other, one, 0 if or_equal else 1)

    def _whole(self, name: str, one: Expression) -> Expression:
        return one if one.terms is not None else self._operation(name, one)

    def _not(self, one: Expression) -> Expression:
        return one.operands[0] if one.operator == "not" else self._operation("not", one)


_OPERATORS: dict[str, Callable[..., Expression]] = {
    "add": SizeArithmetic._add,
    "sub": lambda own, one, other: own._add(one, other, -1),
    "mul": SizeArithmetic._multiply,
    "int_floordiv": SizeArithmetic._divide,
    "mod": SizeArithmetic._remainder,
    "pow_by_natural": SizeArithmetic._power,
    "float_pow": lambda own, one, other: own._operation("pow", one, other),
    "float_truediv": lambda own, one, other: own._operation("truediv", one, other),
    "int_truediv": lambda own, one, other: own._operation("truediv", one, other),
    "neg": SizeArithmetic._negative,
    "pos": lambda _, one: one,
    "eq": SizeArithmetic.equal,
    "ne": lambda own, one, other: own._not(own.equal(one, other)),
    "lt": lambda own, one, other: own._less(one, other, or_equal=False),
    "le": lambda own, one, other: own._less(one, other, or_equal=True),
    "gt": lambda own, one, other: own._less(other, one, or_equal=False),
    "ge": lambda own, one, other: own._less(other, one, or_equal=True),
    "and_": lambda own, one, other: own._operation("and", one, other),
    "or_": lambda own, one, other: own._operation("or", one, other),
    "sym_not": SizeArithmetic._not,
    "sym_max": SizeArithmetic.larger,
    "sym_min": lambda own, one, other: own.larger(one, other, -1),
    "sym_float": lambda own, one: own._operation("float", one) if one.terms is not None else one,
    "sym_int": lambda own, one: own._whole("int", one),
    "floor": lambda own, one: own._whole("floor", one),
    "ceil": lambda own, one: own._whole("ceil", one),
    "trunc": lambda own, one: own._whole("trunc", one),
    "is_integer": lambda own, one: own._operation("is_integer", one),
    "abs": lambda own, one: one if one.terms is not None and one.range[0] >= 0 else own._operation("abs", one),
    **{name: (lambda own, *of, name=name: own._operation(name, *of)) for name in ("lshift", "rshift", "round")},
    **{name: (lambda own, *of, name=name: own._operation(name, *of)) for name in INFIX if name.startswith("bitwise")},
}
_OPERATORS |= {f"sym_{name}": (lambda own, one, name=name: own._operation(name, one)) for name in MATHEMATICS}
OPERATORS: frozenset[str] = frozenset(_OPERATORS)
