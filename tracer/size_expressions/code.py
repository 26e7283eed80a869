"""Writes numbers that are computed from sizes as Python code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from remat_planner.tracer.size_expressions.arithmetic import SizeArithmetic
from remat_planner.tracer.size_expressions.expression import CALLED, TEXTS, Expression
from remat_planner.tracer.size_expressions.polynomials import Monomial


def function_of(arithmetic: SizeArithmetic, expressions: Iterable[Any]) -> Callable[..., tuple[Any, ...]]:
    """A function that computes ``expressions`` from integers for the symbols, exactly as Python does."""
    writer = _Writer(arithmetic)
    results = [
        writer.name_of(expression) if isinstance(expression, Expression) else repr(expression) for expression in expressions
    ]
    parameters = ", ".join(f"s{k}" for k in range(len(arithmetic.symbols)))
    body = "".join(f"    {line}\n" for line in writer.lines)
    code = f"def compute({parameters}):\n{body}    return ({''.join(f'{result}, ' for result in results)})\n"
    namespace: dict[str, Any] = {"__builtins__": {}, **{f"_{name}": function for name, function in CALLED.items()}}
    exec(code, namespace)
    return namespace["compute"]


class _Writer:
    """Writes straight-line code; each number is computed once."""

    def __init__(self, arithmetic: SizeArithmetic) -> None:
        self._atoms = arithmetic.atoms
        self._names: dict[Expression, str] = {symbol: f"s{k}" for k, symbol in enumerate(arithmetic.symbols)}
        self.lines: list[str] = []

    def name_of(self, expression: Expression) -> str:
        """The name of a number, which is computed before."""
        known = self._names.get(expression)
        if known is None:
            code = self._code(expression)
            known = self._names[expression] = f"t{len(self.lines)}"
            self.lines.append(f"{known} = {code}")
        return known

    def _code(self, expression: Expression) -> str:
        if expression.is_number:
            value = expression.value
            return f"_float('{value.hex()}')" if isinstance(value, float) and not math.isfinite(value) else f"({value!r})"
        name, operands = expression.operator, expression.operands
        if name == "polynomial":
            assert expression.terms is not None
            return " + ".join(self._term(monomial, coefficient) for monomial, coefficient in expression.terms.items()) or "0"
        names = list(map(self.name_of, operands))
        match name:
            case "is zero":
                return f"{names[0]} == 0"
            case "is no less than zero":
                return f"{names[0]} >= 0"
            case "not":
                return f"not {names[0]}"
            case "neg":
                return f"-{names[0]}"
            case "and" | "or":
                return f"{names[0]} {name} {names[1]}"
        if name in TEXTS:
            return f"{names[0]} {TEXTS[name]} {names[1]}"
        return f"_{name}({', '.join(names)})"

    def _term(self, monomial: Monomial, coefficient: int) -> str:
        factors = [self.name_of(self._atoms[atom]) for atom in monomial]
        return " * ".join(factors if coefficient == 1 and factors else [f"({coefficient})", *factors])
