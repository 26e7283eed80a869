"""Where a program watches memory: it grows where answers overflow the budget."""

from __future__ import annotations

import numpy as np

from remat_planner.solvers.lazy_moments.decision import served_by
from remat_planner.solvers.lazy_moments.simulated_sequence import SimulatedSequence
from remat_planner.solvers.problem import Problem

# Pairs (node, recomputed node) that are added at a time.
_PAIRS_AT_A_TIME = 6


class WatchList:
    """Moments, and recomputations inside of windows.

    Attributes:
        moments: nodes; memory is watched at their first run.
        inside: pairs (node, recomputed node); memory is watched while the second is recomputed in the window of the first.
    """

    def __init__(self, problem: Problem, *, inside_rows: bool) -> None:
        self.moments: set[int] = set()
        self.inside: set[tuple[int, int]] = set()
        self._problem = problem
        self._inside_rows = inside_rows

    def __len__(self) -> int:
        return len(self.moments) + len(self.inside)

    def add(self, sequence: SimulatedSequence, limit: int, *, most: int) -> bool:
        """Add up to ``most`` moments where ``sequence`` has more than ``limit`` bytes, else pairs; whether any is new."""
        worst, inside = overflows(self._problem, sequence, limit)
        before = len(self)
        fresh = [node for node in _by_bytes(_heads(worst), worst) if node not in self.moments]
        self.moments.update(fresh[:most])
        if len(self) == before:
            self.moments.update([node for node in _by_bytes(worst, worst) if node not in self.moments][:1])
        if len(self) == before and self._inside_rows:
            for _, node, recomputed in sorted(inside, reverse=True)[:_PAIRS_AT_A_TIME]:
                self.inside.add((node, recomputed))
                if node and not self._problem.auxiliary[node - 1]:
                    self.moments.add(node - 1)
        return len(self) > before


def overflows(problem: Problem, sequence: SimulatedSequence, limit: int) -> tuple[dict[int, int], list[tuple[int, int, int]]]:
    """Where a sequence has more than ``limit`` bytes; at its peak, if it has not anywhere.

    Returns:
        The most bytes during each first run and the recomputations for it; and for each recomputation its bytes, the first run
        that it serves and the recomputed node.
    """
    over = sequence.simulation.bytes > limit
    if not over.any():
        over = sequence.simulation.bytes == sequence.simulation.peak_bytes
    worst: dict[int, int] = {}
    inside: list[tuple[int, int, int]] = []
    served = served_by(problem, sequence.nodes)
    for position in np.flatnonzero(over).tolist():
        node, bytes_ = served[position], int(sequence.simulation.bytes[position])
        if node < 0:
            continue
        worst[node] = max(worst.get(node, 0), bytes_)
        if sequence.nodes[position] != node:
            inside.append((bytes_, node, sequence.nodes[position]))
    return worst, inside


def _heads(worst: dict[int, int]) -> set[int]:
    """Of each stretch of overflowing nodes its worst and its first: recomputation for a stretch runs before its first node."""
    groups: list[list[int]] = []
    for node in sorted(worst):
        if groups and node == groups[-1][-1] + 1:
            groups[-1].append(node)
        else:
            groups.append([node])
    return {max(group, key=worst.__getitem__) for group in groups} | {group[0] for group in groups}


def _by_bytes(nodes: set[int] | dict[int, int], worst: dict[int, int]) -> list[int]:
    return sorted(nodes, key=worst.__getitem__, reverse=True)
