"""Lower bounds that do not rest on the accuracy of a solver: its multipliers are only a hint, weak duality does the rest.

At a moment, whatever later nodes need is either in memory or computed again, with what it needs in turn: a closure with one
knapsack row. Its linear relaxation bounds every schedule that keeps the given order of first runs, whatever it recomputes and
however often; auxiliary nodes may come late. (A bound that only lets forward nodes be recomputed would be higher, and wrong
where recomputing a gradient pays.)
"""

from __future__ import annotations

from solvers.moments import Master


def closure_bound(master: Master, *, seconds: float = 10.0) -> float:
    """Seconds that no schedule within the program's budget beats; inf where HiGHS finds the relaxation infeasible.

    Args:
        master: the program for the moments at whose first run memory is watched, without margins.
        seconds: time limit; when it is reached, the bound says nothing more than the time without recomputation.
    """
    return master.problem.seconds + master.certified(master.solve(seconds=seconds, gap=0.0, relax=True))
