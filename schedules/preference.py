"""Which of several schedules is best under a budget: the cheapest that fits, or the lowest peak where none fits."""

from __future__ import annotations

from typing import Protocol


class Cost(Protocol):
    """Anything with the seconds of a step and its peak in bytes, for instance a ``Simulation``."""

    @property
    def seconds(self) -> float:
        """Seconds of the step."""

    @property
    def peak_bytes(self) -> int:
        """Bytes at the peak of the step."""


def preference(cost: Cost, budget: float) -> tuple[bool, float, float]:
    """A sort key: the best schedule has the least.

    Schedules within ``budget`` bytes come first, ordered by seconds, then peak; the others follow, by peak, then seconds.
    """
    if cost.peak_bytes <= budget:
        return False, cost.seconds, cost.peak_bytes
    return True, cost.peak_bytes, cost.seconds
