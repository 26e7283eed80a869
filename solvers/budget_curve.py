"""The curve of time against memory: many budgets at once, each solve starting from what the others found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from remat_planner.schedules import Graph
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import OPTIMAL_TOLERANCE, Reporter, Solution, Task
from remat_planner.solvers.solve import checked_budget, checked_time_limit, solve_task


def curve(
    graph: Graph,
    budgets: Sequence[float],
    *,
    solver: str = "auto",
    time_limit: float = 60.0,
    reporter: Reporter | None = None,
) -> list[Solution]:
    """``solve`` for each of ``budgets``, in their order. More budget is never slower, less budget never has the lower bound.

    A schedule that fits a budget fits every larger one, and is carried there; a bound that holds for a budget holds for every
    smaller one, and is carried there. The reduced form of the graph is made once.

    Args:
        graph: the training step.
        budgets: bytes, each a whole number above zero.
        solver: a name out of ``available()``.
        time_limit: seconds for all budgets together; what one does not need the others have.
        reporter: told about the progress of each.

    Raises:
        UnknownSolverError, SolverMissingError, ValueError: as ``solve`` does.
    """
    limits = [checked_budget(budget) for budget in budgets]
    ascending = sorted(set(limits))
    deadline = Deadline(checked_time_limit(time_limit))
    shared = Task(graph, 1, reporter=reporter or Reporter())
    solutions: dict[int, Solution] = {}
    start: tuple[tuple[int, ...], ...] = ()
    for place, budget in enumerate(ascending):
        part = deadline.part(1 / (len(ascending) - place))
        solution = solve_task(shared.derive(budget=budget, deadline=part, start=start), solver)
        solutions[budget] = solution
        start = (solution.steps or solution.minimum_steps,)
    for larger, smaller in pairwise(reversed(ascending)):
        solutions[smaller] = _with_bound_of(solutions[smaller], solutions[larger], graph.seconds)
    return [solutions[budget] for budget in limits]


def _with_bound_of(solution: Solution, other: Solution, seconds: float) -> Solution:
    """``solution`` with the bound of one that had more memory, where that is the higher."""
    if other.bound <= solution.bound or other.bound > solution.cost * (1 + OPTIMAL_TOLERANCE):
        return solution
    if solution.status == "infeasible":
        return replace(solution, bound=other.bound, assumption=other.assumption)
    bound = min(other.bound, solution.cost)
    proven = solution.cost - bound <= OPTIMAL_TOLERANCE * solution.cost
    return replace(
        solution,
        bound=bound,
        assumption=other.assumption,
        gap=(solution.cost - bound) / seconds,
        status="optimal" if proven else "feasible",
    )
