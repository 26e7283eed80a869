"""A question that was asked of sizes, as a line of Python: "tokens >= 513"."""

from __future__ import annotations

from collections.abc import Sequence

from remat_planner.tracer.size_expressions.arithmetic import SizeArithmetic
from remat_planner.tracer.size_expressions.expression import TEXTS, Expression
from remat_planner.tracer.size_expressions.polynomials import Monomial, Polynomial


def in_words(arithmetic: SizeArithmetic, expression: Expression, names: Sequence[str]) -> str:
    """``expression`` in Python; ``names`` are those of the symbols."""
    return _Text(arithmetic, names).of(expression)


class _Text:
    """Writes expressions with these names for the symbols."""

    def __init__(self, arithmetic: SizeArithmetic, names: Sequence[str]) -> None:
        self._atoms = arithmetic.atoms
        self._names = dict(zip(arithmetic.symbols, names, strict=True))

    def of(self, expression: Expression) -> str:
        if expression in self._names:
            return self._names[expression]
        if expression.is_number:
            return repr(expression.value)
        name, operands = expression.operator, expression.operands
        if name == "polynomial":
            assert expression.terms is not None
            left, right = self._sides(expression.terms)
            return left if right == "0" else f"{left} - ({right})" if " + " in right else f"{left} - {right}"
        if name in ("is zero", "is no less than zero"):
            left, right = self._sides(operands[0].terms or {})
            return f"{left} {'==' if name == 'is zero' else '>='} {right}"
        if name in TEXTS or name in ("and", "or"):
            sign = TEXTS.get(name, name)
            return f"{self._factor(operands[0])} {sign} {self._factor(operands[1])}"
        return f"{name}({', '.join(map(self.of, operands))})"

    def _sides(self, terms: Polynomial) -> tuple[str, str]:
        """The terms that are added, and those that are taken away, as sums."""
        sides: tuple[list[str], list[str]] = [], []
        for monomial, coefficient in terms.items():
            sides[coefficient < 0].append(self._term(monomial, abs(coefficient)))
        return " + ".join(sides[0]) or "0", " + ".join(sides[1]) or "0"

    def _term(self, monomial: Monomial, coefficient: int) -> str:
        factors = [self._factor(self._atoms[atom]) for atom in monomial]
        return " * ".join(factors if coefficient == 1 and factors else [str(coefficient), *factors])

    def _factor(self, atom: Expression) -> str:
        text = self.of(atom)
        return text if text.replace("_", "").isalnum() else f"({text})"
