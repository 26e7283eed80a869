"""TODO: ."""

from __future__ import annotations

from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.two_level import TwoLevels


class TwoLevel(Solver):
    """Options per block and a dynamic program over the blocks; see the module."""

    name = "twolevel"
    description = "options per unique block by integer programs, a dynamic program over the chain of blocks"

    def solve(self, task: Task) -> Answer:
        """The cheapest sequence over all partitions, or the one with the lowest peak."""
        problem = task.problem
        search = TwoLevels(problem, task.deadline)
        nodes = search.best(task.budget)
        simulation = problem.simulate(nodes)
        if simulation.peak_bytes <= task.budget:
            task.reporter.improved(simulation.seconds, simulation.peak_bytes)
        return Answer(steps=problem.expand(nodes), note=search.note)
