"""Seconds against memory: many budgets at once, where schedules and bounds of one budget help the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from remat_planner.schedules import Graph
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import OPTIMAL_TOLERANCE, Order, Reporter, Solution, Solver, Task
from remat_planner.solvers.registry import resolve
from remat_planner.solvers.solve import check_order, checked_budget, checked_time_limit, solve_task

Steps = tuple[int, ...]
SolveOne = Callable[[int, float, tuple[Steps, ...]], Solution]
"""From a budget in bytes, seconds of wall time and schedules to start from to a solution."""


def curve(
    graph: Graph,
    budgets: Sequence[float],
    *,
    solver: str | Solver = "auto",
    time_limit: float = 60.0,
    reporter: Reporter | None = None,
    start: tuple[Steps, ...] = (),
    solve_one: SolveOne | None = None,
    order: Order = "given",
) -> list[Solution]:
    """``solve`` for each of ``budgets``, in the given order; cost and bound never rise with the budget.

    A schedule that fits a budget also fits every larger one, and is a candidate there. A bound that holds for a budget also
    holds for every smaller one, and is carried there.

    Args:
        graph: the training step.
        budgets: bytes, each a whole number above zero.
        solver: a name from ``available()``, or a solver of your own.
        time_limit: seconds for all budgets together; time that one leaves is shared by the rest.
        reporter: receives the progress of each solve.
        start: schedules known to run, which are candidates for every budget.
        solve_one: solves for one budget in the place of ``solve``, for instance by the rules of a device's allocator.
        order: as ``solve`` has it.

    Raises:
        UnknownSolverError, SolverMissingError, TypeError, ValueError, OrderError: as ``solve`` does.
    """
    method = resolve(solver)
    check_order(order, method, copies=bool(graph.pools))
    limits = [checked_budget(budget) for budget in budgets]
    ascending = sorted(set(limits))
    deadline = Deadline(checked_time_limit(time_limit))
    shared = Task(graph, 1, reporter=reporter or Reporter(), order=order)
    solutions: dict[int, Solution] = {}
    known = start
    for k, budget in enumerate(ascending):
        part = deadline.part(1 / (len(ascending) - k))
        if solve_one is None:
            solution = solve_task(shared.derive(budget=budget, deadline=part, start=known), method)
        else:
            solution = solve_one(budget, part.remaining, known)
        solutions[budget] = solution
        known = (*start, solution.steps or solution.minimum_steps)
    for larger, smaller in pairwise(reversed(ascending)):
        solutions[smaller] = _with_bound_of(solutions[smaller], solutions[larger], graph.seconds)
    return [solutions[budget] for budget in limits]


def with_bound(solution: Solution, bound: float, seconds: float) -> Solution:
    """A feasible ``solution`` of a step of ``seconds`` with another bound."""
    bound = min(bound, solution.cost)
    proven = solution.cost - bound <= OPTIMAL_TOLERANCE * solution.cost
    return replace(solution, bound=bound, gap=(solution.cost - bound) / seconds, status="optimal" if proven else "feasible")


def _with_bound_of(solution: Solution, other: Solution, seconds: float) -> Solution:
    """``solution`` with the bound of ``other``, which had more memory, if that bound is higher."""
    if other.bound <= solution.bound or other.bound > solution.cost * (1 + OPTIMAL_TOLERANCE):
        return solution
    assumed = replace(solution, bound=other.bound, assumption=other.assumption)
    return assumed if solution.status == "infeasible" else with_bound(assumed, other.bound, seconds)
