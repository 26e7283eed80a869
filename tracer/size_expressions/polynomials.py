"""Polynomials with integer coefficients, in normal form."""

from __future__ import annotations

Monomial = tuple[int, ...]
"""Numbers of atoms, sorted; one that occurs twice is squared."""
Polynomial = dict[Monomial, int]
"""Coefficients; none is zero."""


def added(one: Polynomial, other: Polynomial, sign: int = 1) -> Polynomial:
    """The sum of two polynomials; the difference where ``sign`` is -1."""
    result = dict(one)
    for monomial, coefficient in other.items():
        total = result.pop(monomial, 0) + sign * coefficient
        if total:
            result[monomial] = total
    return result


def product(one: Polynomial, other: Polynomial) -> Polynomial:
    """The product of two polynomials."""
    result: Polynomial = {}
    for first, a in one.items():
        for second, b in other.items():
            result = added(result, {tuple(sorted(first + second)): a * b}, 1)
    return result


def leading_monomial(terms: Polynomial) -> Monomial:
    """The leading monomial of one that is not zero: by degree, then in the order of the atoms."""
    return min(terms, key=lambda monomial: (-len(monomial), monomial))


def exact_quotient(one: Polynomial, other: Polynomial) -> Polynomial | None:
    """The exact quotient of two polynomials, where it has integer coefficients; else None."""
    if not other:
        return None
    leading = leading_monomial(other)
    result: Polynomial = {}
    while one:
        first = leading_monomial(one)
        left = list(first)
        for atom in leading:
            if atom not in left:
                return None
            left.remove(atom)
        coefficient, rest = divmod(one[first], other[leading])
        if rest:
            return None
        step = {tuple(left): coefficient}
        result = added(result, step, 1)
        one = added(one, product(step, other), -1)
    return result
