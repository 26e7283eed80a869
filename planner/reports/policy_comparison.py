"""The usual checkpointing policies on the same graph at the same budget, to compare a plan with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remat_planner.planner.gpu_allocator import AllocatorPeak
from remat_planner.schedules import Graph, Schedule, simulate
from remat_planner.solvers import Solution, available, solve

POLICIES = ("none", "every-n", "chen")
"""The policies that people use today, by the names of their solvers."""

_SECONDS_EACH = 5.0  # time limit of each; they take milliseconds on most graphs


@dataclass(frozen=True)
class PolicyCost:
    """What one policy costs.

    Attributes:
        solver: its name among the solvers.
        peak_bytes: the lowest peak that the policy reaches, where it does not fit the budget.
        overhead: extra time as a fraction of the step without recomputation.
        fits: whether the peak is within the budget.
    """

    solver: str
    peak_bytes: int
    overhead: float
    fits: bool


@dataclass(frozen=True)
class PolicyPoint:
    """A peak that a policy reaches: the name of its solver, bytes, and extra time as a fraction."""

    solver: str
    peak_bytes: int
    overhead: float


def compare(schedule: Schedule) -> list[PolicyCost]:
    """Each of ``POLICIES`` that is installed, at the schedule's own budget.

    Without a policy the step is eager's, whatever form the schedule is in.
    """
    eager = schedule.baseline_peak_bytes
    costs = [PolicyCost("none", eager, overhead=0.0, fits=eager <= schedule.budget)]
    installed = available()
    return costs + [_cost(schedule.graph, schedule.budget, solver) for solver in POLICIES[1:] if solver in installed]


def usual_policies(graph: Graph, budgets: Sequence[int], peak: AllocatorPeak) -> tuple[PolicyPoint, ...]:
    """What each of ``POLICIES`` that is installed reaches within each of ``budgets``, each peak of a policy once.

    ``peak`` says what a sequence of executions takes.
    """
    installed = available()
    points: dict[tuple[str, int], PolicyPoint] = {}
    for solver in POLICIES:
        for budget in budgets if solver in installed else ():
            steps = _steps(solve(graph, budget, solver=solver, time_limit=_SECONDS_EACH))
            point = PolicyPoint(solver, peak(steps), _overhead(graph, steps))
            points.setdefault((solver, point.peak_bytes), point)
    return tuple(points.values())


def _cost(graph: Graph, budget: int, solver: str) -> PolicyCost:
    solution = solve(graph, budget, solver=solver, time_limit=_SECONDS_EACH)
    return PolicyCost(
        solver=solver,
        peak_bytes=solution.peak_bytes,
        overhead=_overhead(graph, _steps(solution)),
        fits=solution.status != "infeasible",
    )


def _steps(solution: Solution) -> Sequence[int]:
    """The schedule, or the one with the lowest peak where none fits."""
    return solution.steps or solution.minimum_steps


def _overhead(graph: Graph, steps: Sequence[int]) -> float:
    return simulate(graph, steps).seconds / graph.seconds - 1 if graph.seconds else 0.0
