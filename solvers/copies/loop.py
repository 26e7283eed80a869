"""The way to a schedule with copies: policies in use today, the relaxation and its roundings, then the search."""

from __future__ import annotations

from collections.abc import Sequence

from remat_planner.schedules import preference, simulate
from remat_planner.solvers.copies.baselines import everything, inputs_of_layers, most_seconds_per_byte
from remat_planner.solvers.copies.plan import CopyPlanner, Planned
from remat_planner.solvers.copies.rounding import observed, rounded
from remat_planner.solvers.copies.search import improve
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import OPTIMAL_TOLERANCE, Task
from remat_planner.solvers.lazy_moments import relax_copies

# Roundings of the relaxation, each with more bytes left free, until one fits.
_ROUNDINGS = 8
# Bytes left free, over those by which the last rounding exceeded the budget.
_SPARE = 1.05
# Share of the remaining time for one relaxation.
_RELAXATION_SHARE = 0.2


class CopySearch:
    """The best decisions and the bound so far.

    Args:
        task: the question; its graph has pools.

    Attributes:
        bound: seconds of the step; no schedule in the given order within the budget takes less, with or without copies.
        without_copies: the same for schedules without copies, by a relaxation.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._planner = CopyPlanner(task.problem, task.budget)
        self.bound = self.without_copies = task.problem.seconds
        self._best = self._planner.plan(self._planner.gaps.keep_all(task.problem.n))
        self._policies: list[Planned] = []

    @property
    def best(self) -> Planned:
        """The cheapest decisions within the budget, or those with the fewest bytes over it."""
        return self._best

    @property
    def settled(self) -> bool:
        """Whether nothing is left to find."""
        return not self._best.excess and self._best.seconds <= self._target + OPTIMAL_TOLERANCE * self._task.problem.seconds

    @property
    def _target(self) -> float:
        return self.bound if self._task.enough is None else max(self.bound, self._task.enough)

    def begin(self) -> None:
        """Try the policies, then take the bounds and the roundings of the relaxation."""
        if self.settled:
            return
        for policy in (most_seconds_per_byte, inputs_of_layers, everything):
            self._policies.append(self._planner.plan(policy(self._planner)))
            self._keep(self._policies[-1])
        self._relax_and_round()

    def offer(self, nodes: Sequence[int]) -> None:
        """Start from a sequence of nodes too."""
        self._keep(self._planner.plan(observed(self._planner, nodes)))

    def anneal(self) -> None:
        """Improve the best decisions until the time is over."""
        deadline = self._task.deadline
        if not deadline.expired and not self.settled:
            self._keep(improve(self._planner, self._best, deadline, target=self._target, improved=self._keep))

    def steps(self) -> tuple[int, ...]:
        """The best schedule, by the simulator: it also counts what copies slow the ops beside them by."""
        candidates = [self._planner.steps(planned.decisions) for planned in (self._best, *self._policies) if planned.peak_bytes]
        return min(candidates, key=lambda steps: preference(simulate(self._task.graph, steps), self._task.budget))

    def _keep(self, planned: Planned) -> None:
        if planned.rank < self._best.rank:
            self._best = planned
            if not planned.excess:
                self._task.reporter.improved(planned.seconds, planned.peak_bytes)

    def _relax_and_round(self) -> None:
        """Watch memory at the peak; round what that says, with more and more bytes left free."""
        problem, budget, deadline = self._task.problem, self._task.budget, self._task.deadline
        levels = problem.simulate(range(problem.n)).bytes.astype(float)
        levels[problem.auxiliary] = -1.0
        moments = [int(levels.argmax())]
        if deadline.expired or problem.auxiliary.all():
            return
        part = Deadline(_RELAXATION_SHARE * deadline.remaining, within=deadline)
        self.without_copies = relax_copies(problem, budget, moments, copies=False, seconds=part.remaining).bound
        margin = 0
        for _ in range(_ROUNDINGS):
            if deadline.expired or self.settled:
                return
            part = Deadline(_RELAXATION_SHARE * deadline.remaining, within=deadline)
            relaxed = relax_copies(problem, budget, moments, margin=margin, seconds=part.remaining)
            if not margin and relaxed.bound > self.bound:
                self.bound = relaxed.bound
                self._task.reporter.bound(self.bound)
            if not relaxed.held:
                return
            planned = self._planner.plan(rounded(self._planner, relaxed.moments, relaxed.held, relaxed.loaded))
            self._keep(planned)
            if not planned.excess:
                return
            margin += int(_SPARE * max(planned.peak_bytes - budget, 1))
