"""Memory that costs next to no time, saved even where the budget does not ask for it.

Recomputing a few cheap ops often takes a tenth off the peak within the noise of a step's time. Overheads up to
``FREE_OVERHEAD`` count as none, and the schedule with the lowest peak among those is taken. It depends on the graph alone and
not on the budget, so that more budget still never gives a slower plan: budgets that it fits all get it, and smaller ones cost
more than it.
"""

from __future__ import annotations

from collections import OrderedDict

from remat_planner.schedules import Graph, simulate
from remat_planner.solvers import Deadline, Solution, solve

# A fraction of the step's time.
FREE_OVERHEAD = 0.005
# Savings are looked for at these hundredths of the peak without recomputation.
_GRID = 100
_GRAPHS = 16

_known: OrderedDict[str, tuple[int, ...]] = OrderedDict()


def is_free(graph: Graph, seconds: float) -> bool:
    """Whether a step of ``seconds`` counts as no slower than one without recomputation."""
    return seconds <= (1 + FREE_OVERHEAD) * graph.seconds


def save_for_free(graph: Graph, solution: Solution, deadline: Deadline) -> tuple[int, ...]:
    """The steps with the lowest peak that still are free, at most ``solution``'s peak; ``solution`` is free itself."""
    known = _known.get(graph.fingerprint)
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
        lower = solve(graph, budget, time_limit=deadline.remaining / 4, enough=free)
        if lower.status != "infeasible" and is_free(graph, lower.cost):
            high, best = middle, lower
        else:
            low = middle
    _known[graph.fingerprint] = best.steps
    _known.move_to_end(graph.fingerprint)
    while len(_known) > _GRAPHS:
        _known.popitem(last=False)
    return best.steps
