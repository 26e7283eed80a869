"""What the links to the pools of a graph can carry, as far as a bound needs it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from remat_planner.solvers.problem import Problem


@dataclass(frozen=True)
class Links:
    """All pools of a graph together.

    Attributes:
        items: the items that can be copied.
        outgoing, incoming: bytes per second; inf without a limit.
        budget: bytes that the pools hold.
        longest: seconds beyond the step without recomputation that no schedule of interest takes.
    """

    items: frozenset[int]
    outgoing: float
    incoming: float
    budget: int
    longest: float

    @classmethod
    def of(cls, problem: Problem) -> Links | None:
        """The links of a problem; None where its graph has no pools."""
        pools = problem.graph.pools
        if not pools:
            return None
        outgoing = math.fsum(pool.outgoing.bytes_per_second for pool in pools)
        incoming = math.fsum(pool.incoming.bytes_per_second for pool in pools)
        longest = 4 * problem.seconds
        copied = set(problem.graph.copied)
        items = frozenset(
            item
            for item, storages in enumerate(problem.storages)
            if storages and copied.issuperset(storages) and problem.bytes[item] <= min(outgoing, incoming) * longest
        )
        return cls(items, outgoing, incoming, sum(pool.budget for pool in pools), longest)
