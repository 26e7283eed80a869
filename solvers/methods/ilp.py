"""``ilp``: lazy moments, an exact method for a given order of first runs."""

from __future__ import annotations

from remat_planner.solvers.interface import ORDER_GIVEN, Answer, Solver, Task
from remat_planner.solvers.lazy_moments import LazyMoments, LazyMomentsOptions, bound_note


class LazyMomentsSolver(Solver):
    """Lazy moments to the end: until the bound is reached, or the time is over.

    Args:
        options: switches and tuning numbers of the loop.
    """

    name = "ilp"
    description = "lazy moments: a mixed-integer program (PuLP, HiGHS) that watches memory where it overflows"
    proves = "a lower bound for all schedules that keep the given order of first runs; optimal where it is reached"
    source = "this project; PuLP and HiGHS"

    def __init__(self, options: LazyMomentsOptions | None = None) -> None:
        self.options = options or LazyMomentsOptions()

    def solve(self, task: Task) -> Answer:
        """The cheapest schedule found, with the bound of the last program."""
        problem = task.problem
        method = LazyMoments(problem, task.budget, task.reporter, enough=task.enough, options=self.options)
        while method.work(task.deadline):
            pass
        sequence = method.best or method.lowest
        return Answer(problem.expand(sequence.nodes), method.bound, ORDER_GIVEN, note=bound_note(method))
