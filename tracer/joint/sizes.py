"""Numbers in a captured step that are computed from the sizes of its inputs.

A step of symbolic sizes is written for some sizes. The numbers among the arguments of its operators then say from where they
come, so that generated code can take them for other sizes too.
"""

from __future__ import annotations

from typing import Any


class SizeNumber(int):
    """An integer that is computed from sizes.

    Attributes:
        number: its index among all such numbers of the step.
    """

    number: int


class SizeQuotient(float):
    """A quotient that is computed from sizes; see ``SizeNumber``."""

    number: int


def number_from_sizes(value: float, number: int) -> Any:
    """``value``, which is the number with this index."""
    of_sizes: SizeNumber | SizeQuotient = SizeQuotient(value) if isinstance(value, float) else SizeNumber(value)
    of_sizes.number = number
    return of_sizes


def is_from_sizes(value: Any) -> bool:
    """Whether ``value`` is computed from sizes."""
    return isinstance(value, (SizeNumber, SizeQuotient))
