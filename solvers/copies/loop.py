"""The way to a schedule with copies: policies in use today, a program with copies, then the search."""

from __future__ import annotations

import math
from collections.abc import Sequence

from remat_planner.schedules import preference, simulate
from remat_planner.solvers.compiling import COMPILING, in_time
from remat_planner.solvers.copies.baselines import everything, inputs_of_layers, most_seconds_per_byte
from remat_planner.solvers.copies.kernel import ready
from remat_planner.solvers.copies.needed import only_what_is_needed
from remat_planner.solvers.copies.plan import CopyPlanner, Planned
from remat_planner.solvers.copies.rounding import observed, rounded
from remat_planner.solvers.copies.search import improve
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import OPTIMAL_TOLERANCE, Task
from remat_planner.solvers.lazy_moments import CopyProgram, CopyShares

# Programs, each with more bytes left free, until the decisions of one fit.
_ROUNDINGS = 5
# Bytes left free, over those by which the last decisions exceeded the budget.
_SPARE = 1.05
# Share of the remaining time for one program.
_PROGRAM_SHARE = 0.2
# Precision asked of a program, as a fraction of the step.
_GAP = 1e-4
# Share of the remaining time for the last pass.
_LAST_SHARE = 0.05
NO_TIME_TO_COMPILE = f"nothing is copied: compiling the search takes {COMPILING:g} s, once; allow more time"


class CopySearch:
    """The best decisions and the bound so far.

    Args:
        task: the question; its graph has pools.

    Attributes:
        bound: seconds of the step; no schedule in the given order within the budget takes less, with or without copies.
        without_copies: the same for schedules without copies, by a relaxation.
    """

    @staticmethod
    def in_time(deadline: Deadline) -> bool:
        """Whether a search can begin before the deadline: its kernel is compiled, or there is time to compile it."""
        return in_time(deadline, compiled=ready())

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
        """Try the task's own starts and the policies, then what the program with copies says, and take its bound."""
        if self.settled:
            return
        for steps in self._task.start:
            self.offer(steps)
        for policy in (most_seconds_per_byte, inputs_of_layers, everything):
            self._policies.append(self._planner.plan(policy(self._planner)))
            self._keep(self._policies[-1])
        self._solve_and_round()

    def offer(self, steps: Sequence[int]) -> None:
        """Start from a schedule too."""
        self._keep(self._planner.plan(observed(self._planner, steps)))

    def anneal(self) -> None:
        """Improve the best decisions until the time is over; at the end, whatever need not leave stays."""
        deadline = self._task.deadline
        if not deadline.expired and not self.settled:
            part = deadline.part(1 - _LAST_SHARE)
            self._keep(improve(self._planner, self._best, part, target=self._target, improved=self._keep))
            self._keep(only_what_is_needed(self._planner, self._best, deadline))

    def steps(self) -> tuple[int, ...]:
        """The best schedule, by the simulator: it also counts what copies slow the ops beside them by."""
        candidates = [
            self._planner.steps(planned.decisions) for planned in (self._best, *self._policies) if math.isfinite(planned.excess)
        ]
        return min(candidates, key=lambda steps: preference(simulate(self._task.graph, steps), self._task.budget))

    def _keep(self, planned: Planned) -> None:
        if planned.rank < self._best.rank:
            self._best = planned
            if not planned.excess:
                self._task.reporter.improved(planned.seconds, planned.peak_bytes)

    def _solve_and_round(self) -> None:
        """Watch memory at the peak; decide as the program says, with more and more bytes left free until that fits."""
        problem, budget, deadline = self._task.problem, self._task.budget, self._task.deadline
        levels = problem.simulate(range(problem.n)).bytes.astype(float)
        levels[problem.auxiliary] = -1.0
        moments = [int(levels.argmax())]
        if deadline.expired or problem.auxiliary.all():
            return
        plain = CopyProgram(problem, budget, moments, copies=False)
        self.without_copies = plain.relax(seconds=self._part()).bound
        margin = 0
        for _ in range(_ROUNDINGS):
            program = CopyProgram(problem, budget, moments, margin=margin)
            if not margin:
                relaxed = program.relax(seconds=self._part())
                self._raise_bound(relaxed.bound)
                self._try(relaxed)
            if deadline.expired or self.settled:
                return
            shares = program.solve(seconds=self._part(), gap=_GAP * problem.seconds)
            if not margin:
                self._raise_bound(shares.bound)
            planned = self._try(shares)
            if planned is None or not planned.excess:
                return
            margin += int(_SPARE * max(planned.peak_bytes - budget, 1))

    def _try(self, shares: CopyShares) -> Planned | None:
        """Plan what shares say, if they say anything, and keep it if it is better."""
        if not shares.held:
            return None
        planned = self._planner.plan(rounded(self._planner, shares.moments, shares.held, shares.loaded))
        self._keep(planned)
        return planned

    def _part(self) -> float:
        """Seconds for one program."""
        return _PROGRAM_SHARE * self._task.deadline.remaining

    def _raise_bound(self, bound: float) -> None:
        if bound > self.bound:
            self.bound = bound
            self._task.reporter.bound(bound)
