"""Time limits that nest: a method gets a part of its caller's time, and a part ends when the whole does."""

from __future__ import annotations

import time


class Deadline:
    """A time limit that starts when it is created.

    Args:
        seconds: wall time from now; inf for no limit.
        within: a deadline that ends this one too.
    """

    def __init__(self, seconds: float, within: Deadline | None = None) -> None:
        self.seconds = seconds
        self._within = within
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left, never below zero."""
        left = max(0.0, self.seconds - self.elapsed)
        return left if self._within is None else min(left, self._within.remaining)

    @property
    def at_most(self) -> float:
        """Seconds left if this deadline is extended as far as the one around it allows."""
        return self.remaining if self._within is None else self._within.at_most

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self.elapsed >= self.seconds or (self._within is not None and self._within.expired)

    def end(self) -> None:
        """Expire now; this stops work in another thread that watches the deadline."""
        self.seconds = 0.0

    def extend_to(self, other: Deadline) -> None:
        """Expire together with ``other``; has no effect after ``end``."""
        if self.seconds:
            self.seconds = self.elapsed + other.remaining

    def part(self, fraction: float) -> Deadline:
        """A deadline over this fraction of the remaining time, within this one."""
        return Deadline(fraction * self.remaining, within=self)
