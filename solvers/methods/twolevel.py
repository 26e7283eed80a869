"""``twolevel``: options for each distinct block, and a dynamic program over the blocks."""

from __future__ import annotations

from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.two_level import TwoLevelOptions, TwoLevels


class TwoLevel(Solver):
    """The two-level search on several partitions of the step.

    Args:
        options: switches and tuning numbers.
    """

    name = "twolevel"
    description = "options per unique block by integer programs, a dynamic program over the chain of blocks"
    source = "this project, after Rockmate (Zhao, Le Hellard, Eyraud-Dubois, Gusak and Beaumont 2023)"
    anytime = True

    def __init__(self, options: TwoLevelOptions | None = None) -> None:
        self.options = options or TwoLevelOptions()

    def solve(self, task: Task) -> Answer:
        """The cheapest sequence over all partitions, or the one with the lowest peak."""
        problem = task.problem
        search = TwoLevels(problem, task.deadline, self.options)
        nodes = search.best(task.budget)
        simulation = problem.simulate(nodes)
        if simulation.peak_bytes <= task.budget:
            task.reporter.improved(simulation.seconds, simulation.peak_bytes)
        return Answer(steps=problem.expand(nodes), note=search.note)
