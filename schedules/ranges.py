"""A range of sizes of the inputs, for which a schedule that is planned for one of them holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SizeRange:
    """Sizes of some dimensions of the inputs, which are always equal.

    Attributes:
        name: what the user calls them.
        least: the smallest size.
        largest: the largest size.
        planned: the size for which the schedule is planned, and up to which it is used.
        dims: index among the tensor inputs, and dimension, of each of them.
    """

    name: str
    least: int
    largest: int
    planned: int
    dims: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return f"{self.name}={self.least}" + (f"..{self.largest}" if self.largest > self.least else "")

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest size."""
        return self.least, self.largest


def is_at_largest(ranges: Sequence[SizeRange]) -> bool:
    """Whether a schedule is planned for the largest sizes of its ranges."""
    return all(of.planned == of.largest for of in ranges)


def in_words(ranges: Sequence[SizeRange]) -> str:
    """ "batch=1..8, tokens=128..4096"."""
    return ", ".join(map(str, ranges))
