"""Solvers whose algorithm takes a number of snapshots: they get as many as fit the budget."""

from __future__ import annotations

import abc
from collections.abc import Iterable

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain.actions import Action, sequence
from remat_planner.solvers.chain.binomial import advances
from remat_planner.solvers.chain.stages import Chain, Forward, chains
from remat_planner.solvers.interface import Answer, Solver, Task

# Forward steps of one schedule: more take too long to simulate, and far too long to run.
_MOST_ADVANCES = 10_000
# Stages of a chain that is short enough to try every number of snapshots.
_SHORT = 24


class SnapshotSolver(Solver):
    """Finds the number of snapshots that fits, for every view of the graph as a chain."""

    proves = "nothing; its counts are optimal for chains of equal steps"

    @abc.abstractmethod
    def actions(self, length: int, snapshots: int) -> Iterable[Action]:
        """The actions that reverse ``length`` stages with ``snapshots`` snapshots, the initial state among them."""

    def solve(self, task: Task) -> Answer:
        """The cheapest of the schedules with the most snapshots that fit, over the views of the graph as a chain."""
        candidates = Candidates(task)
        if candidates.fits(range(task.problem.n), "keeps everything"):
            return candidates.answer()
        forward = Forward(task.problem)
        for chain in chains(forward):
            length = len(chain.stages)
            few, many = 1, length
            while few <= many:
                snapshots = (few + many) // 2
                if self._offer(candidates, chain, snapshots):
                    few = snapshots + 1
                else:
                    many = snapshots - 1
                if candidates.out_of_time:
                    return candidates.answer()
            # Fewer snapshots need not mean a lower peak, so bisection may miss the best number.
            for snapshots in range(1, length + 1 if length <= _SHORT else 1):
                self._offer(candidates, chain, snapshots)
                if candidates.out_of_time:
                    return candidates.answer()
        return candidates.answer()

    def _offer(self, candidates: Candidates, chain: Chain, snapshots: int) -> bool:
        if advances(len(chain.stages), snapshots) > _MOST_ADVANCES:
            return False
        nodes = sequence(chain, self.actions(len(chain.stages), snapshots))
        return candidates.fits(nodes, f"{snapshots} snapshots on a {chain.words}")
