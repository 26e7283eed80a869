"""The inner loop of the annealing: try a move, keep it or undo it, cool down, remember the best sequence."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from remat_planner.solvers.annealing.kernel.arrays import (
    BEST,
    BEST_LENGTH,
    COST,
    INSERTED,
    KIND,
    LOGGED,
    NODE,
    OVER,
    REMOVABLE,
    RUN,
    SLOTS,
    WEIGHT,
    MoveMix,
    SequenceState,
    Wiring,
)
from remat_planner.solvers.annealing.kernel.edits import insert, remove
from remat_planner.solvers.annealing.kernel.moves import LONGEST_MOVE, try_insert, try_remove, try_shift
from remat_planner.solvers.annealing.kernel.sources import digest_of_sources, sources
from remat_planner.solvers.annealing.kernel.splitmix import uniform
from remat_planner.solvers.compiling import entrance, inner, is_compiled

# Moves between two changes of the temperature and of the price of a byte over the budget.
_MOVES_PER_STEP = 200


def _with_digest(digest: int) -> Callable[[Wiring, SequenceState, MoveMix, int, float, float, float, int], int]:
    """``anneal``. Its cache key on disk includes what it closes over: here a digest of all files of the kernel."""

    @entrance
    def anneal(
        w: Wiring, s: SequenceState, mix: MoveMix, moves: int, begin: float, end: float, growth: float, budget: int
    ) -> int:
        """Try ``moves`` moves while the temperature falls from ``begin`` to ``end`` (same unit as the costs).

        ``measures[WEIGHT]`` is the price of a byte over the budget (bytes, constants not included). Every 200 moves it is
        multiplied by ``growth`` while the sequence is over the budget, divided while it is within. ``best`` receives the
        cheapest sequence within the budget, ``measures[BEST]`` its cost above one run of each node. Returns the number of
        accepted moves.
        """
        _ = digest
        n = w.cost.size
        cooling = (end / begin) ** (float(_MOVES_PER_STEP) / max(moves, _MOVES_PER_STEP))
        temperature = begin
        if w.items.shape[0] == 0:  # No run leaves anything to recompute.
            return 0
        log = np.empty((2 * LONGEST_MOVE + 2, 4), np.int64)
        accepted = 0
        for move in range(moves):
            if move % _MOVES_PER_STEP == 0:
                s.measures[WEIGHT] *= growth if s.counters[OVER] > 0 else 1.0 / growth
                if move:
                    temperature *= cooling
            weight = s.measures[WEIGHT]
            over = s.counters[OVER]
            r = uniform(s.random)
            threshold = -temperature * math.log(uniform(s.random) + 1e-300)
            if s.counters[REMOVABLE] > 0 and r < mix.swaps + mix.removals:
                length, cost = try_remove(w, s, mix, log, budget)
                if r < mix.swaps and length > 0:
                    more, extra = try_insert(w, s, mix, threshold + weight * over - cost, log, length, budget)
                    length += more
                    cost += extra
            elif (s.counters[REMOVABLE] > 0 or mix.firsts > 0.0) and r < mix.swaps + mix.removals + mix.shifts:
                length, cost = try_shift(w, s, mix, log, budget)
            else:
                length, cost = try_insert(w, s, mix, threshold + weight * over, log, 0, budget)
            if length == 0:
                continue
            if cost + weight * (s.counters[OVER] - over) <= threshold:
                accepted += 1
                s.measures[COST] += cost
                if s.counters[OVER] == 0 and s.measures[COST] < s.measures[BEST] - 1e-12 * n:
                    s.measures[BEST] = s.measures[COST]
                    _store(s)
            else:
                for i in range(length - 1, -1, -1):
                    if log[i, KIND] == INSERTED:
                        remove(w, s, log[i, RUN], budget)
                    else:
                        insert(w, s, log[i, LOGGED], log[i, RUN], budget)
        return accepted

    return anneal


anneal = _with_digest(digest_of_sources())


def ready() -> bool:
    """Whether ``anneal`` runs at once, without being compiled."""
    return is_compiled(anneal, sources())


@inner
def _store(s: SequenceState) -> None:
    """Remember the sequence as the best one."""
    i = 0
    for k in range(s.counters[SLOTS]):
        if s.held[k] >= 0:
            s.best[i] = s.run[s.held[k], NODE]
            i += 1
    s.counters[BEST_LENGTH] = i
