"""The usual policies on the same graph at the same budget, beside the plan."""

from __future__ import annotations

from dataclasses import dataclass

from remat_planner.schedules import Graph, Schedule, simulate
from remat_planner.solvers import available, solve

_SECONDS_EACH = 5.0


@dataclass(frozen=True)
class Row:
    """What one policy comes to.

    Attributes:
        solver: its name among the solvers.
        peak_bytes: where no schedule of the policy fits the budget, the lowest peak that it reaches.
        overhead: extra time as a fraction of the step without recomputation.
        fits: within the budget.
    """

    solver: str
    peak_bytes: int
    overhead: float
    fits: bool


# The policies that people use today; those of them that are installed are shown.
POLICIES = ("none", "every-n", "chen")


def compare(schedule: Schedule) -> list[Row]:
    """A row for each of ``POLICIES``, at the schedule's own budget."""
    installed = available()
    return [_row(schedule.graph, schedule.budget, solver) for solver in POLICIES if solver in installed]


def _row(graph: Graph, budget: int, solver: str) -> Row:
    solution = solve(graph, budget, solver=solver, time_limit=_SECONDS_EACH)
    fits = solution.status != "infeasible"
    seconds = solution.cost if fits else simulate(graph, solution.minimum_steps).seconds
    return Row(
        solver=solver,
        peak_bytes=solution.peak_bytes,
        overhead=seconds / graph.seconds - 1 if graph.seconds else 0.0,
        fits=fits,
    )
