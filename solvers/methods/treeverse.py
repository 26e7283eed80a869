"""Checkpointing by bisection with bounded repetitions.

Griewank, "Achieving logarithmic growth of temporal and spatial complexity in reverse automatic differentiation", Optimization
Methods and Software 1 (1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

from remat_planner.solvers.chain import Action, SnapshotSolver, repetitions


def treeverse(length: int, snapshots: int, times: int | None = None) -> Iterator[Action]:
    """The actions that reverse ``length`` steps with ``snapshots`` snapshots (the initial state among them).

    No step is run forward more than ``times`` times before the run with its backward; by default the least number for which
    that is possible.

    Raises:
        ValueError: with so few snapshots and repetitions there is no way.
    """
    least = repetitions(length, snapshots)
    times = least if times is None else times
    if times < least:
        raise ValueError(
            f"{length} steps cannot be reversed with {snapshots} snapshots in {times} repetitions: {least} are needed"
        )
    yield Action("snapshot", 0)
    # Parts [first, end) of the chain, to be reached from the snapshot at ``base``; how many snapshots the part may have, the
    # one at its start among them, and how often its steps may be repeated.
    pending = [(0, 0, length, snapshots, times)]
    while pending:
        base, first, end, free, left = pending.pop()
        yield from (Action("forward", i) for i in range(base, first))
        if end - first == 1:
            yield Action("save", first)
            yield Action("backward", first)
            continue
        if first > base:
            yield Action("snapshot", first)
        middle = first + _bisect(end - first, free, left)
        pending.append((first, first, middle, free, left - 1))
        pending.append((first, middle, end, free - 1, left))


def _bisect(length: int, free: int, left: int) -> int:
    """Griewank's bisection: the parts are as the repetitions to the snapshots, neither longer than its own can reverse."""
    proportional = -(-length * left // (left + free))
    most = min(length - 1, comb(free + left - 1, free))
    least = max(1, length - comb(free - 1 + left, free - 1))
    return max(least, min(proportional, most))


class Treeverse(SnapshotSolver):
    """Treeverse on the cut points of the graph, with the least repetitions that the number of snapshots allows."""

    name = "treeverse"
    description = "checkpointing by bisection, bounded repetitions (Griewank 1992)"

    def actions(self, length: int, snapshots: int) -> Iterator[Action]:
        """See ``treeverse``."""
        return treeverse(length, snapshots)
