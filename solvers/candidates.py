"""The best of the sequences that a solver tries."""

from __future__ import annotations

from collections.abc import Sequence

from remat_planner.schedules import Simulation
from remat_planner.solvers.interface import Answer, Task


class Candidates:
    """Remembers, of the sequences of nodes offered, the cheapest within the budget and the one with the lowest peak.

    Ties go to the lower peak, then to the earlier offer, so that the same offers give the same answer.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._offered = 0.0  # when the last offer was judged, in seconds since the start of the deadline
        self._longest = 0.0  # seconds from one offer to the next, at most
        self._fit: tuple[tuple[float, int], list[int], str] | None = None
        self._lowest: tuple[tuple[int, float], list[int], str] | None = None

    def offer(self, nodes: Sequence[int], note: str = "") -> Simulation:
        """Judge a sequence, remember it if it is the best so far, and tell what it costs."""
        run = self._task.problem.simulate(nodes)
        if run.peak_bytes <= self._task.budget:
            key = (run.seconds, run.peak_bytes)
            if self._fit is None or key < self._fit[0]:
                self._fit = (key, list(nodes), note)
                self._task.reporter.improved(run.seconds, run.peak_bytes)
        lowest = (run.peak_bytes, run.seconds)
        if self._lowest is None or lowest < self._lowest[0]:
            self._lowest = (lowest, list(nodes), note)
        elapsed = self._task.deadline.elapsed
        self._longest = max(self._longest, elapsed - self._offered)
        self._offered = elapsed
        return run

    def fits(self, nodes: Sequence[int], note: str = "") -> bool:
        """Offer a sequence; whether it is within the budget."""
        return self.offer(nodes, note).peak_bytes <= self._task.budget

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline may not leave time for another offer."""
        return self._task.deadline.remaining <= self._longest

    @property
    def feasible(self) -> bool:
        """Whether one within the budget was offered."""
        return self._fit is not None

    def answer(self, note: str | None = None) -> Answer:
        """The best one, with its note or another; at least one must have been offered."""
        best = self._fit or self._lowest
        if best is None:
            raise RuntimeError("no sequence was offered")
        _, nodes, own_note = best
        return Answer(steps=self._task.problem.expand(nodes), note=own_note if note is None else note)
