"""What copies on the host would give, beside a plan that was made without them: on paper, in a few seconds."""

from __future__ import annotations

from dataclasses import dataclass

from remat_planner.schedules import Channel, Pool, Schedule, simulate
from remat_planner.solvers import solve

_SECONDS = 5.0
_LEAST_OVERHEAD = 0.005  # plans that cost less have little to gain
_BLOCK = 4096  # bytes
_WITHOUT_LIMIT = 2**60  # bytes of the host


@dataclass(frozen=True)
class CopiesInstead:
    """A schedule with copies, found on paper within seconds. It was not run, and is not the best there is.

    Attributes:
        host_bytes: what its copies take of the host's memory.
        overhead: its extra time as a fraction of the step without recomputation.
    """

    host_bytes: int
    overhead: float


def copies_instead(schedule: Schedule, outgoing: Channel, incoming: Channel) -> CopiesInstead | None:
    """What the link between the device and its host would give at the budget of ``schedule``; None where nothing is known.

    Nothing is known of a plan that has pools already or costs next to nothing, where the seconds found nothing better, and
    where the search with copies would have to be compiled first.
    """
    graph = schedule.graph
    if graph.pools or schedule.overhead < _LEAST_OVERHEAD:
        return None
    with_host = graph.with_transfers([Pool("host", _WITHOUT_LIMIT, outgoing, incoming, block=_BLOCK)])
    found = solve(with_host, schedule.budget, solver="offload", time_limit=_SECONDS)
    if found.status == "infeasible" or found.cost >= schedule.seconds:
        return None
    host = simulate(with_host, found.steps).pool_peaks.get("host", 0)
    return CopiesInstead(host, found.cost / graph.seconds - 1) if host else None
