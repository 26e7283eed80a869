"""From the items retained at the start of the backward to a sequence: all others are recomputed just before they are needed."""

from __future__ import annotations

from collections.abc import Collection

from remat_planner.solvers.chain.stages import Forward
from remat_planner.solvers.problem import SequenceBuilder


def just_in_time(forward: Forward, kept: Collection[int]) -> list[int]:
    """The sequence of nodes in which ``kept`` and the fixed items are the only ones resident when the backward begins.

    A recomputed item stays until its last use. An auxiliary node whose results are not kept runs when they are needed.
    """
    problem = forward.problem
    kept = frozenset(kept)
    builder = SequenceBuilder(problem, by_index=False)
    for node in range(forward.start):
        if not problem.auxiliary[node] or problem.pinned[node] or not kept.isdisjoint(problem.writes[node]):
            builder.run(node)
    builder.available = [
        there and (item in kept or fixed)
        for item, (there, fixed) in enumerate(zip(builder.available, forward.fixed, strict=True))
    ]
    for node in range(forward.start, problem.n):
        builder.run(node)
    ran = set(builder.sequence)
    for node in range(forward.start):
        if node not in ran:
            builder.run(node)
    return builder.sequence
