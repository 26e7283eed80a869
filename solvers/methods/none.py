"""Run the step as the framework would: every op once, every value kept until its last use."""

from __future__ import annotations

from remat_planner.solvers.interface import Answer, Solver, Task


class KeepEverything(Solver):
    """No recomputation: the baseline of time."""

    name = "none"
    description = "keep everything: every op runs once, in the given order"
    proves = "optimal wherever it fits, as no schedule is faster than running every op once"

    def solve(self, task: Task) -> Answer:
        """The execution order."""
        return Answer(steps=range(len(task.graph.ops)))
