"""Local search over decisions: simulated annealing, each step judged by the compiled emission.

A move changes the decision of one gap, or exchanges those of two, so that an item takes the room of another. The price is the
time of the step, stalls included, plus a weight on the bytes over the budget that grows until the decisions fit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.solvers.copies.gaps import COPY, KEEP, LEAVE, Ints
from remat_planner.solvers.copies.plan import CopyPlanner, Planned
from remat_planner.solvers.deadline import Deadline

# Shares of the moves: over the highest place; that exchange two decisions; of these, with an item of as many bytes.
_OVER_PEAK, _EXCHANGES, _ALIKE = 0.8, 0.6, 0.6
# Draws of a partner for an exchange.
_TRIES = 20


@dataclass(frozen=True)
class SearchOptions:
    """How the search cools down. The values were found by experiment on captured steps.

    Attributes:
        hot, cold: first and last temperature, in mean op costs.
        weight: price of a peak over the budget, in steps for as many bytes as the budget leaves beside constants. Above what a
            byte of memory saves, or else the search would stay over the budget.
        growth: factor of the weight every 100 moves while the decisions are over the budget.
        width: price of all bytes over the budget, in mean op costs for as many bytes as that during one op.
        moves_per_gap: moves, at most, for each gap that may change.
        moves_per_second: with which the number of moves is planned.
        look: moves between two looks at the clock.
    """

    hot: float = 0.07
    cold: float = 0.004
    weight: float = 1.0
    growth: float = 1.1
    width: float = 1.0
    moves_per_gap: int = 200
    moves_per_second: int = 3000
    look: int = 100


DEFAULT_OPTIONS = SearchOptions()


def improve(
    planner: CopyPlanner,
    start: Planned,
    deadline: Deadline,
    *,
    target: float = 0.0,
    seed: int = 0,
    most_moves: int | None = None,
    improved: Callable[[Planned], None] | None = None,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Planned:
    """Anneal from ``start`` until the deadline is over or ``target`` seconds are reached; return the best.

    Args:
        planner: turns decisions into time and memory.
        start: decisions to start from.
        deadline: its length sets the number of moves; inf stands for a minute.
        target: seconds of the step, a bound where one is known.
        seed: of the random generator.
        most_moves: ends the search too.
        improved: called with each better plan within the budget.
        options: how to anneal.
    """
    moves = _Moves(planner, seed)
    if not moves.gaps:
        return start
    generator = moves.random
    mean = planner.problem.seconds / planner.problem.n
    room = max(planner.room, 1)
    seconds = deadline.remaining if math.isfinite(deadline.remaining) else 60.0
    count = int(min(seconds * options.moves_per_second, options.moves_per_gap * len(moves.gaps)))
    count = count if most_moves is None else min(count, most_moves)
    weight = options.weight

    def price(plan: Planned) -> float:
        over = max(0, plan.peak_bytes - planner.budget) / room
        return plan.seconds + weight * over * planner.problem.seconds + options.width * mean * plan.excess / room

    now = best = start
    for move in range(count):
        if move % options.look == 0:
            if deadline.expired or (not best.excess and best.seconds <= target):
                break
            weight *= options.growth if now.excess else 1 / options.growth
            weight = max(weight, options.weight)
            share = deadline.elapsed / deadline.seconds if math.isfinite(deadline.seconds) else move / count
            temperature = mean * options.hot * (options.cold / options.hot) ** max(share, move / count)
            current = price(now)
        decisions = moves.propose(now.decisions)
        trial = planner.plan(decisions)
        cost = price(trial)
        if cost <= current or generator.random() < math.exp((current - cost) / temperature):
            now, current = trial, cost
            if trial.rank < best.rank:
                best = trial
                if improved is not None and not best.excess:
                    improved(best)
    return best


class _Moves:
    """Random changes of decisions, among the gaps over places where all items together exceed the budget."""

    def __init__(self, planner: CopyPlanner, seed: int) -> None:
        gaps, problem = planner.gaps, planner.problem
        n = problem.n
        levels = problem.simulate(range(n)).bytes
        above = np.concatenate(([0], np.cumsum(levels > planner.budget)))
        crosses = above[np.minimum(gaps.after, n)] - above[gaps.before + 1] > 0
        peak = int(levels.argmax())
        over_peak = (gaps.before < peak) & (gaps.after > peak)
        movable = crosses & (gaps.may_leave | gaps.may_be_copied)
        self.random = random.Random(seed)
        self.gaps: list[int] = np.flatnonzero(movable).tolist()
        self._over_peak: list[int] = np.flatnonzero(movable & over_peak).tolist() or self.gaps
        copies = [COPY + pool for pool in range(len(planner.pools))]
        self._options: dict[int, Sequence[int]] = {
            gap: [KEEP, *([LEAVE] if gaps.may_leave[gap] else []), *(copies if gaps.may_be_copied[gap] else [])]
            for gap in self.gaps
        }
        self._bytes: list[int] = problem.bytes[gaps.item].tolist()
        self._alike: dict[int, list[int]] = {}  # gaps over the peak by the bytes of their items
        for gap in self._over_peak:
            self._alike.setdefault(self._bytes[gap], []).append(gap)

    def propose(self, decisions: Ints) -> Ints:
        """``decisions`` after a move."""
        changed = decisions.copy()
        draw = self.random
        gap = draw.choice(self._over_peak if draw.random() < _OVER_PEAK else self.gaps)
        old = int(decisions[gap])
        changed[gap] = new = draw.choice([option for option in self._options[gap] if option != old])
        if draw.random() < _EXCHANGES:
            others = self._alike.get(self._bytes[gap], self.gaps) if draw.random() < _ALIKE else self._over_peak
            for _ in range(_TRIES):
                other = draw.choice(others)
                if other != gap and decisions[other] == new and old in self._options[other]:
                    changed[other] = old
                    break
        return changed
