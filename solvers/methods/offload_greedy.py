"""``offload-greedy``: copies what takes longest to recompute by byte, and recomputes the rest."""

from __future__ import annotations

from remat_planner.solvers.copies import CopyPlanner, most_seconds_per_byte
from remat_planner.solvers.interface import Answer, Solver, Task


class OffloadGreedy(Solver):
    """Copy by seconds of recomputation per byte, recompute the rest."""

    name = "offload-greedy"
    description = "copies what takes longest to recompute by byte, as the link allows, and recomputes the rest as needed"
    source = "torchtitan's activation offloading"
    copies = True

    def solve(self, task: Task) -> Answer:
        """The policy, with transfers placed for the budget; on a graph without pools, nothing leaves by a copy."""
        return Answer(CopyPlanner(task.problem, task.budget).unless_all_fits(most_seconds_per_byte))
