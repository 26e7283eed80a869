"""Annealing in which first executions may move too: weight gradients later or earlier, branches one after the other.

Wide graphs gain most: what one order must recompute, another one need not. What draws random numbers, updates state or must run
once stays where it is, so that the bits stay too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from remat_planner.solvers.annealing.kernel import DEFAULT_MIX
from remat_planner.solvers.annealing.search import Annealed, AnnealingOptions, anneal, best_of
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem

ANY_ORDER_OPTIONS = AnnealingOptions(moves=DEFAULT_MIX._replace(shifts=0.3, firsts=0.5))
"""How to anneal where first executions may move; found by experiment on the models of the tests."""

_MOVES_PER_NODE = 1000
"""Of each annealing; few enough for seconds on a graph of some thousand nodes."""
_IDLE_TURNS = 2
"""After so many annealings in a row without a better sequence, the search ends."""
_LOWER = (0.1, 0.03, 0.01)
"""Where nothing fits: the shares of the lowest peak by which the next one shall be lower, in turn."""


def anneal_in_any_order(
    problem: Problem,
    budget: int,
    deadline: Deadline,
    *,
    starts: Sequence[Sequence[int]],
    improved: Callable[[Sequence[int]], None] | None = None,
) -> Annealed:
    """The best sequence found, from ``starts``: the cheapest within the budget, or the one with the lowest peak.

    It ends early where nothing more is found, or where nothing is recomputed.

    Args:
        problem: the reduced graph.
        budget: bytes at the peak, constants included.
        deadline: when to return what was found.
        starts: sequences of nodes; at least one.
        improved: called with each better sequence within the budget.
    """
    best = best_of(problem, budget, starts)
    idle = turn = 0
    while idle < _IDLE_TURNS and not deadline.expired and not (best.fits and best.cost <= problem.seconds):
        target = budget if best.fits else max(budget, int(best.peak * (1 - _LOWER[turn % len(_LOWER)])))
        found = anneal(
            problem,
            target,
            deadline,
            starts=[best.nodes],
            target=problem.seconds,
            seed=turn,
            improved=improved if target == budget else None,
            options=ANY_ORDER_OPTIONS,
            moves=_MOVES_PER_NODE * problem.n,
        )
        better = best_of(problem, budget, [best.nodes, found.nodes])
        idle = 0 if (better.fits, -better.cost, -better.peak) > (best.fits, -best.cost, -best.peak) else idle + 1
        best = better
        turn += 1
    return best
