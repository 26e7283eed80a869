"""``anneal``: simulated annealing of the execution sequence."""

from __future__ import annotations

from collections.abc import Sequence

from remat_planner.solvers.annealing import AnnealingOptions, anneal, anneal_in_any_order, best_of, in_time
from remat_planner.solvers.compiling import COMPILING
from remat_planner.solvers.interface import Answer, Solver, Task

_GIVEN_SHARE = 0.5
"""Share of the time for the given order, where first executions may move afterwards."""


class Anneal(Solver):
    """Simulated annealing, from the execution order and from the task's own starts.

    Args:
        options: how to anneal.
    """

    name = "anneal"
    description = "simulated annealing of the execution sequence, several times over (Kirkpatrick et al. 1983)"
    source = "Kirkpatrick, Gelatt and Vecchi, Optimization by simulated annealing, Science 220 (1983); the moves are ours"
    any_order = True
    anytime = True

    def __init__(self, options: AnnealingOptions | None = None) -> None:
        self.options = options or AnnealingOptions()

    def solve(self, task: Task) -> Answer:
        """The best sequence found in the number of moves that the time limit stands for."""
        problem = task.problem
        starts = [problem.nodes_of(steps) for steps in task.start]
        order = range(problem.n)
        if problem.simulate(order).peak_bytes <= task.budget:
            return Answer(steps=problem.expand(order))
        if not in_time(task.deadline):
            best = best_of(problem, task.budget, [order, *starts])
            return Answer(steps=problem.expand(best.nodes), note=f"nothing annealed: compiling takes {COMPILING:g} s, once")

        def improved(nodes: Sequence[int]) -> None:
            simulation = problem.simulate(nodes)
            task.reporter.improved(simulation.seconds, simulation.peak_bytes)

        in_order = task.order == "given"
        deadline = task.deadline if in_order else task.deadline.part(_GIVEN_SHARE)
        best = anneal(problem, task.budget, deadline, starts=starts, improved=improved, options=self.options)
        if not in_order:
            starts.append(best.nodes)
            best = anneal_in_any_order(problem, task.budget, task.deadline, starts=starts, improved=improved)
        return Answer(steps=problem.expand(best.nodes))
