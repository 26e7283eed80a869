"""No recomputation: every op runs once, in the given order, and every value stays until its last use."""

from __future__ import annotations

from remat_planner.solvers.interface import Answer, Solver, Task


class KeepEverything(Solver):
    """The baseline: the least seconds, and usually the highest peak."""

    name = "none"
    description = "keep everything: every op runs once, in the given order"
    proves = "optimal wherever it fits, as no schedule is faster than running every op once"
    source = "what frameworks do by default"
    any_order = True  # where it fits, no order is faster
    quick = True

    def solve(self, task: Task) -> Answer:
        """The given order."""
        return Answer(steps=range(len(task.graph.ops)))
