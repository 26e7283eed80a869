"""The binomial counts behind optimal checkpointing of a chain of equal steps (Griewank & Walther 2000)."""

from __future__ import annotations

from math import comb


def repetitions(length: int, snapshots: int) -> int:
    """The least r such that ``snapshots`` snapshots reverse ``length`` steps, none of which runs forward more than r times."""
    r = 0
    while comb(snapshots + r, snapshots) < length:
        r += 1
    return r


def advances(length: int, snapshots: int) -> int:
    """The least number of forward steps that reverse a chain: t(l, s) = r l - C(s + r, r - 1).

    The initial state is one of the ``snapshots``. Running a step together with its backward does not count as an advance.
    """
    r = repetitions(length, snapshots)
    return r * length - comb(snapshots + r, r - 1) if r else 0


def split(length: int, snapshots: int) -> int:
    """How far to advance before the next snapshot; ``length`` and ``snapshots`` are at least 2.

    A k with k + t(k, s) + t(l - k, s - 1) = t(l, s): neither part is longer than r repetitions allow.
    """
    r = repetitions(length, snapshots)
    least = max(1, length - comb(snapshots - 1 + r, snapshots - 1))
    below = comb(snapshots + r - 2, snapshots) if r >= 2 else 1
    return max(least, min(below, length - 1))
