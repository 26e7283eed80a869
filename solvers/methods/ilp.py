"""TODO: ."""

from __future__ import annotations

from remat_planner.solvers.interface import ORDER_GIVEN, Answer, Solver, Task
from remat_planner.solvers.lazy_moments import LazyMoments, bound_note


class LazyMomentsSolver(Solver):
    """``ilp``."""

    name = "ilp"
    description = "lazy moments: a mixed-integer program (PuLP, HiGHS) that watches memory where it overflows"
    proves = "a lower bound for all schedules that keep the given order of first runs; optimal where it is reached"

    def solve(self, task: Task) -> Answer:
        """The cheapest schedule found, with the bound of the last program."""
        problem = task.problem
        method = LazyMoments(problem, task.budget, task.reporter, enough=task.enough)
        while method.work(task.deadline):
            pass
        run = method.best or method.lowest
        return Answer(problem.expand(run.nodes), method.bound, ORDER_GIVEN, note=bound_note(method))
