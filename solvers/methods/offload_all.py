"""``offload-all``: copies every saved item, as long as the pool has room."""

from __future__ import annotations

from remat_planner.solvers.copies import CopyPlanner, everything
from remat_planner.solvers.interface import Answer, Solver, Task


class OffloadAll(Solver):
    """Copy everything that the backward needs."""

    name = "offload-all"
    description = "copies every saved item, as long as the pool has room"
    source = "TRL, torchtune and others: activation offloading of all saved tensors"
    copies = True

    def solve(self, task: Task) -> Answer:
        """The policy, with transfers placed for the budget; on a graph without pools, nothing leaves by a copy."""
        return Answer(CopyPlanner(task.problem, task.budget).unless_all_fits(everything))
