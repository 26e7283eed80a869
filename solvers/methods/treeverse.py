"""Checkpointing by bisection with bounded repetitions."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

from remat_planner.solvers.chain import Action, SnapshotSolver, repetitions


class Treeverse(SnapshotSolver):
    """Treeverse on the cut points of the graph, with the fewest repetitions that the number of snapshots allows."""

    name = "treeverse"
    description = "checkpointing by bisection, bounded repetitions (Griewank 1992)"
    source = (
        "Griewank, Achieving logarithmic growth of temporal and spatial complexity in reverse automatic differentiation, "
        "Optimization Methods and Software 1 (1992)"
    )
    quick = True

    def actions(self, length: int, snapshots: int) -> Iterator[Action]:
        """See ``treeverse``."""
        return treeverse(length, snapshots)


def treeverse(length: int, snapshots: int) -> Iterator[Action]:
    """The actions that reverse ``length`` steps with ``snapshots`` snapshots, the initial state included.

    No step runs forward more often before the run with its backward than the number of snapshots makes necessary.
    """
    times = repetitions(length, snapshots)
    yield Action("snapshot", 0)
    # Parts [first, end) of the chain, reached from the snapshot at ``base``; the snapshots that a part may have, its start
    # included, and how often its steps may be repeated.
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
    """Griewank's bisection: in the proportion of repetitions to snapshots, with neither part longer than it can be reversed."""
    proportional = -(-length * left // (left + free))
    most = min(length - 1, comb(free + left - 1, free))
    least = max(1, length - comb(free - 1 + left, free - 1))
    return max(least, min(proportional, most))
