"""Binomial checkpointing, optimal for a chain of equal steps."""

from __future__ import annotations

from collections.abc import Iterator

from remat_planner.solvers.chain import Action, SnapshotSolver, split


class Revolve(SnapshotSolver):
    """Revolve on the cut points of the graph."""

    name = "revolve"
    description = "binomial checkpointing of a chain of equal steps (Griewank & Walther 2000)"
    source = "Griewank and Walther, Algorithm 799: revolve, ACM Transactions on Mathematical Software 26 (2000)"
    quick = True

    def actions(self, length: int, snapshots: int) -> Iterator[Action]:
        """See ``revolve``."""
        return revolve(length, snapshots)


def revolve(length: int, snapshots: int) -> Iterator[Action]:
    """The actions that reverse ``length`` steps with the fewest advances; the initial state is one of the ``snapshots``."""
    yield Action("snapshot", 0)
    pending = [(0, length, snapshots)]  # chains [first, end) whose first step's input is a snapshot
    while pending:
        first, end, free = pending.pop()
        if end - first == 1 or free == 1:
            for last in range(end - 1, first - 1, -1):
                yield from (Action("forward", i) for i in range(first, last))
                yield Action("save", last)
                yield Action("backward", last)
            continue
        middle = first + split(end - first, free)
        yield from (Action("forward", i) for i in range(first, middle))
        yield Action("snapshot", middle)
        pending.append((first, middle, free))
        pending.append((middle, end, free - 1))
