"""The usual checkpointing policies on the same graph at the same budget, to compare a plan with."""

from __future__ import annotations

from dataclasses import dataclass

from remat_planner.schedules import Graph, Schedule, simulate
from remat_planner.solvers import available, solve

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


def compare(schedule: Schedule) -> list[PolicyCost]:
    """Each of ``POLICIES`` that is installed, at the schedule's own budget."""
    installed = available()
    return [_cost(schedule.graph, schedule.budget, solver) for solver in POLICIES if solver in installed]


def _cost(graph: Graph, budget: int, solver: str) -> PolicyCost:
    solution = solve(graph, budget, solver=solver, time_limit=_SECONDS_EACH)
    fits = solution.status != "infeasible"
    seconds = solution.cost if fits else simulate(graph, solution.minimum_steps).seconds
    return PolicyCost(
        solver=solver,
        peak_bytes=solution.peak_bytes,
        overhead=seconds / graph.seconds - 1 if graph.seconds else 0.0,
        fits=fits,
    )
