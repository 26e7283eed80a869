"""What a little more memory would give, and what a little less would cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from remat_planner.schedules import Graph, Schedule
from remat_planner.solvers import solve

_SECONDS_EACH = 10.0  # time limit of each; the schedule at hand is the starting point


@dataclass(frozen=True)
class Neighbour:
    """The best schedule found in seconds for a budget near that of the schedule.

    Attributes:
        budget_bytes: the budget.
        difference_bytes: ``budget_bytes`` less the schedule's budget.
        overhead: extra time as a fraction of the step without recomputation; None where no schedule was found.
        bound_overhead: the least ``overhead`` that a bound allows.
    """

    budget_bytes: int
    difference_bytes: int
    overhead: float | None
    bound_overhead: float


def neighbours(schedule: Schedule) -> list[Neighbour]:
    """A budget above and one below that of ``schedule``: by 1 GB for tens of GB, by 10 MB for hundreds of MB."""
    difference = 10 ** max(0, int(math.log10(schedule.budget)) - 1)
    return [_neighbour(schedule, sign * difference) for sign in (1, -1) if schedule.budget + sign * difference > 0]


def _neighbour(schedule: Schedule, difference: int) -> Neighbour:
    graph, budget = schedule.graph, schedule.budget + difference
    known = schedule.bound_seconds if difference < 0 else 0.0  # a bound holds for every smaller budget
    if budget < graph.update_peak:  # the optimizer's step takes as much under every schedule
        return Neighbour(budget, difference, None, _overhead(graph, known))
    solution = solve(graph, budget, time_limit=_SECONDS_EACH, start=(schedule.steps,))
    overhead = None if solution.status == "infeasible" else _overhead(graph, solution.cost)
    return Neighbour(budget, difference, overhead, _overhead(graph, max(known, solution.bound)))


def _overhead(graph: Graph, seconds: float) -> float:
    return max(0.0, seconds / graph.seconds - 1) if graph.seconds else 0.0
