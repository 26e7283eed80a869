"""Lower bounds that do not rest on the accuracy of a solver: its multipliers are only a hint, weak duality does the rest.

At a moment, whatever later nodes need is either in memory or computed again, with what it needs in turn: a closure with one
knapsack row. Its linear relaxation bounds every schedule that keeps the given order of first runs, whatever it recomputes and
however often; auxiliary nodes may come late. (A bound that only lets forward nodes be recomputed would be higher, and wrong
where recomputing a gradient pays.)
"""

from __future__ import annotations

from collections.abc import Sequence

from solvers.moments import Master
from solvers.problem import Problem


def closure_bound(problem: Problem, budget: int, moments: Sequence[int] | None = None, *, seconds: float = 10.0) -> float:
    """Seconds that no schedule within ``budget`` bytes beats; inf where HiGHS finds the relaxation infeasible.

    Args:
        problem: the reduced graph.
        budget: bytes at the peak, constants included.
        moments: nodes, not auxiliary, at whose first run memory is watched. By default the one where a run without
            recomputation takes most.
        seconds: time limit; when it is reached, the bound says nothing more than the time without recomputation.
    """
    if moments is None:
        live = problem.simulate(range(problem.n)).bytes.copy()
        live[problem.auxiliary] = 0
        moments = [int(live.argmax())]
    master = Master(problem, budget, sorted(moments))
    return problem.seconds + master.certified(master.solve(seconds=seconds, gap=0.0, relax=True))
