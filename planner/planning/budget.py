"""Budgets: what "40GB", "512MiB", "60%" or a whole number of bytes mean.

GB is 10^9 bytes and GiB is 2^30. The two differ by 7 %, so reports print a budget in both.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from fractions import Fraction

from remat_planner.planner.errors import BudgetError
from remat_planner.planner.formatting import format_bytes_both

AUTO = "auto"
"""The budget that means the device's memory; ``device_budget`` knows how much that is."""

LEAST = "min"
"""The budget that means the least one for which a schedule is found."""

LEAST_FOUND = "the least for which a schedule was found"

# A number in a string without a unit below this one lacks its unit.
_LEAST_WITHOUT_UNIT = 1000

_PATTERN = re.compile(
    r"\s*(?P<number>[+-]?(?:\d{1,3}(?:,\d{3})+|\d[\d_]*)?(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)\s*(?P<unit>%|[a-zA-Z]*)\s*"
)
_PREFIXES = "kmgtp"
_EXPECTED = (
    'write a number of bytes with its unit, such as "40GB" (10^9), "512MiB" (2^20) or "60%" of the peak without recomputation, '
    'or "min"'
)
_EXPECTED_OF_POOL = 'write one with its unit, such as "64GB", or 0 for no copies'


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes, or a share of the peak without recomputation, or the least possible; exactly one of the three is set.

    Attributes:
        bytes: the budget in bytes.
        share: the budget as a share, 1 for the whole peak.
        origin: where the bytes come from, if the user did not write them.
        least: whether it is the least for which a schedule is found, which only the solver knows.
    """

    bytes: int | None = None
    share: Fraction | None = None
    origin: str = ""
    least: bool = False

    def resolve(self, baseline_peak: int) -> int:
        """The budget in bytes of a step that peaks at ``baseline_peak`` bytes without recomputation."""
        if self.share is not None:
            return max(int(self.share * baseline_peak), 1)
        return self.bytes or 0

    def describe(self, resolved: int) -> str:
        """The budget in words, with ``resolved`` (its bytes) in decimal and binary units."""
        both_units = format_bytes_both(resolved)
        if self.share is None:
            origin = LEAST_FOUND if self.least else self.origin
            return f"{both_units}, {origin}" if origin else both_units
        return f"{both_units}, {float(100 * self.share):g} % of the peak without recomputation"


def parse_budget(budget: int | str) -> Budget:
    """Read a budget: a number of bytes, a share, or "min".

    Raises:
        BudgetError: it is not a number of bytes, or not above zero.
    """
    if budget == LEAST:
        return Budget(least=True)
    if isinstance(budget, str):
        number, unit = _split(budget)
    else:
        number, unit = _whole(budget), "b"
    if number <= 0:
        raise BudgetError(f"a budget of {budget!r} leaves no memory at all: {_EXPECTED}")
    if unit == "%":
        return Budget(share=number / 100)
    if isinstance(budget, str) and not unit and number < _LEAST_WITHOUT_UNIT:
        share = f"{float(number if number > 1 else 100 * number):g}%"
        raise BudgetError(
            f"a budget of {budget!r} is that many bytes, in which no training step fits: did you mean {share!r} of the peak "
            f'without recomputation, or "{budget.strip()}GB"?'
        )
    count = number * _factor(unit, budget)
    if count < 1:
        raise BudgetError(f"a budget of {budget!r} is less than one byte: {_EXPECTED}")
    return Budget(bytes=int(count))


def pool_budget(budget: int | str, pool: str) -> int:
    """The budget of a pool in bytes; 0 means that nothing is copied there.

    Raises:
        BudgetError: it is not a number of bytes, or below zero.
    """
    if not isinstance(budget, bool) and budget in (0, "0"):
        return 0
    asked = parse_budget(budget)
    if asked.bytes is None:
        raise BudgetError(f"the {pool} budget {budget!r} is no number of bytes: {_EXPECTED_OF_POOL}")
    return asked.bytes


def _split(budget: str) -> tuple[Fraction, str]:
    match = _PATTERN.fullmatch(budget)
    if match is None and re.fullmatch(r"\s*\d+,\d+\s*[%a-zA-Z]*\s*", budget):
        raise BudgetError(f"the budget {budget!r} has a decimal comma: did you mean {budget.strip().replace(',', '.')!r}?")
    if match is None or not any(character.isdigit() for character in match["number"]):
        raise BudgetError(f"the budget {budget!r} is not a number of bytes: {_EXPECTED}")
    return Fraction(match["number"].replace(",", "").replace("_", "")), match["unit"].lower()


def _whole(budget: object) -> Fraction:
    try:
        if isinstance(budget, bool):
            raise TypeError
        return Fraction(operator.index(budget))  # type: ignore[arg-type]
    except TypeError:
        raise BudgetError(f"the budget {budget!r} is not a whole number of bytes: {_EXPECTED}") from None


def _factor(unit: str, budget: int | str) -> int:
    """Bytes in one of ``unit``: "", "b", "gb", "g", "gib" and the like."""
    bare = unit.removesuffix("b")
    if not bare:
        return 1
    base = 1024 if bare.endswith("i") and len(bare) > 1 else 1000
    prefix = bare.removesuffix("i")
    if len(prefix) != 1 or prefix not in _PREFIXES:
        raise BudgetError(f"the budget {budget!r} has an unknown unit: {_EXPECTED}")
    return int(base ** (_PREFIXES.index(prefix) + 1))
