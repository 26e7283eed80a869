"""TODO: ."""

from __future__ import annotations

import time


class Deadline:
    """A time limit that has begun to run.

    Args:
        seconds: wall time from now; inf for none.
        within: another one that ends this one too.
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
        own = max(0.0, self.seconds - self.elapsed)
        return own if self._within is None else min(own, self._within.remaining)

    @property
    def at_most(self) -> float:
        """Seconds that may be left if it is extended."""
        return self.remaining if self._within is None else self._within.at_most

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self.elapsed >= self.seconds or (self._within is not None and self._within.expired)

    def end(self) -> None:
        """Let it expire now, for work in another thread that watches it."""
        self.seconds = 0.0

    def extend_to(self, other: Deadline) -> None:
        """Let it expire when ``other`` does, unless it was ended."""
        if self.seconds:
            self.seconds = self.elapsed + other.remaining

    def part(self, fraction: float) -> Deadline:
        """A deadline over this fraction of the time that is left, which ends with this one."""
        return Deadline(fraction * self.remaining, within=self)
