"""The best of the sequences that a solver tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remat_planner.schedules import Simulation, preference
from remat_planner.solvers.interface import Answer, Task


class Candidates:
    """Simulates sequences of nodes and remembers the best: the cheapest within the budget, or else the lowest peak.

    Ties go to the lower peak, then to the earlier offer, so that the same offers give the same answer.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._best: _Candidate | None = None
        self._last_offer = 0.0  # seconds since the start of the deadline
        self._longest = 0.0  # seconds between two offers, at most

    def offer(self, nodes: Sequence[int], note: str = "") -> Simulation:
        """Simulate a sequence, and remember it if it is the best so far."""
        simulation = self._task.problem.simulate(nodes)
        rank = preference(simulation, self._task.budget)
        if self._best is None or rank < self._best.rank:
            fits = simulation.peak_bytes <= self._task.budget
            self._best = _Candidate(rank, fits, list(nodes), note)
            if fits:
                self._task.reporter.improved(simulation.seconds, simulation.peak_bytes)
        elapsed = self._task.deadline.elapsed
        self._longest = max(self._longest, elapsed - self._last_offer)
        self._last_offer = elapsed
        return simulation

    def fits(self, nodes: Sequence[int], note: str = "") -> bool:
        """Offer a sequence and return whether it is within the budget."""
        return self.offer(nodes, note).peak_bytes <= self._task.budget

    @property
    def out_of_time(self) -> bool:
        """Whether another offer may take longer than the time left."""
        return self._task.deadline.remaining <= self._longest

    @property
    def feasible(self) -> bool:
        """Whether a sequence within the budget was offered."""
        return self._best is not None and self._best.fits

    def answer(self, note: str | None = None) -> Answer:
        """The best sequence, with ``note`` or else its own note.

        Raises:
            RuntimeError: no sequence was offered.
        """
        if self._best is None:
            raise RuntimeError("no sequence was offered")
        return Answer(steps=self._task.problem.expand(self._best.nodes), note=self._best.note if note is None else note)


@dataclass(frozen=True)
class _Candidate:
    rank: tuple[bool, float, float]
    fits: bool
    nodes: list[int]
    note: str
