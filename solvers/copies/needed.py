"""The last pass over decisions: whatever need not leave stays.

A search that ends early, or that started from decisions with room to spare, recomputes and copies what the budget has room for.
"""

from __future__ import annotations

import numpy as np

from remat_planner.solvers.copies.gaps import KEEP, LEAVE
from remat_planner.solvers.copies.plan import CopyPlanner, Planned
from remat_planner.solvers.deadline import Deadline


def only_what_is_needed(planner: CopyPlanner, start: Planned, deadline: Deadline) -> Planned:
    """``start``, with items that stay in gaps in which they left, as long as the step then fits and takes no longer.

    What takes longest to recompute by byte stays first, then what is copied. Of decisions over the budget, nothing changes.
    """
    best, gaps, problem = start, planner.gaps, planner.problem
    if best.excess:
        return best
    away = np.flatnonzero((start.decisions != KEEP) & (gaps.after < problem.n))
    items = gaps.item[away]
    worth = problem.cost[problem.producer[items]] / np.maximum(problem.bytes[items], 1)
    order = np.lexsort((-worth, start.decisions[away] != LEAVE))
    # Together first: half of what is left is tried at once, and only if that does not fit each by itself.
    pending = [away[order]]
    while pending and not deadline.expired:
        chosen = pending.pop()
        decisions = best.decisions.copy()
        decisions[chosen] = KEEP
        trial = planner.plan(decisions)
        if not trial.excess and trial.seconds <= best.seconds:
            best = trial
        elif len(chosen) > 1:
            middle = len(chosen) // 2
            pending += [chosen[middle:], chosen[:middle]]
    return best
