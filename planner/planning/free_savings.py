"""Saves memory that costs next to no time, even if the budget does not ask for it.

Recomputing a few cheap ops often lowers the peak by a tenth, within the noise of a step's time. So overheads up to
``FREE_OVERHEAD`` count as none, and the plan is the schedule with the lowest peak among these. That schedule depends on the
graph alone, so a larger budget still never gives a slower plan: all budgets that it fits get it, and smaller ones cost more.
"""

from __future__ import annotations

from collections import OrderedDict

from remat_planner.schedules import Graph, simulate
from remat_planner.solvers import Deadline, Order, Solution, solve

FREE_OVERHEAD = 0.005
"""Overhead that counts as none, as a fraction of the step's time: the noise of measured steps."""

_GRID = 100  # the search tries budgets that are hundredths of the peak without recomputation
_SEARCH_SHARE = 1 / 4  # of the remaining time, for each budget that the search tries
_MOST_GRAPHS = 16  # whose result is remembered

_known: OrderedDict[tuple[str, Order], tuple[int, ...]] = OrderedDict()


def is_free(graph: Graph, seconds: float) -> bool:
    """Whether a step of ``seconds`` counts as no slower than without recomputation."""
    return seconds <= (1 + FREE_OVERHEAD) * graph.seconds


def save_for_free(graph: Graph, solution: Solution, deadline: Deadline, order: Order) -> tuple[int, ...]:
    """The free steps with the lowest peak found; ``solution`` is free itself, and the result never exceeds its peak."""
    known = _known.get((graph.fingerprint, order))
    if known is not None:
        run = simulate(graph, known)
        if run.peak_bytes <= solution.peak_bytes and is_free(graph, run.seconds):
            return known
    best, free = solution, (1 + FREE_OVERHEAD) * graph.seconds
    baseline = simulate(graph, range(len(graph.ops))).peak_bytes
    low, high = graph.update_peak * _GRID // max(baseline, 1), _GRID
    while high - low > 1 and not deadline.expired:
        middle = (low + high) // 2
        budget = baseline * middle // _GRID
        if budget >= best.peak_bytes:
            high = middle
            continue
        lower = solve(graph, budget, time_limit=_SEARCH_SHARE * deadline.remaining, enough=free, order=order)
        if lower.status != "infeasible" and is_free(graph, lower.cost):
            high, best = middle, lower
        else:
            low = middle
    _known[graph.fingerprint, order] = best.steps
    _known.move_to_end((graph.fingerprint, order))
    while len(_known) > _MOST_GRAPHS:
        _known.popitem(last=False)
    return best.steps
