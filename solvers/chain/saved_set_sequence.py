"""From what is kept at the start of the backward to a sequence: everything else is computed again right before it is needed."""

from __future__ import annotations

from collections.abc import Collection

from remat_planner.solvers.chain.stages import Forward
from remat_planner.solvers.problem import Emitter


def just_in_time(forward: Forward, kept: Collection[int]) -> list[int]:
    """The sequence of nodes under which ``kept`` and the fixed items are all that the backward finds.

    What is computed again stays until its last use. Auxiliary nodes whose results are not kept run when they are asked for.
    """
    problem = forward.problem
    kept = frozenset(kept)
    emitter = Emitter(problem, by_index=False)
    for node in range(forward.start):
        if not problem.auxiliary[node] or problem.pinned[node] or not kept.isdisjoint(problem.writes[node]):
            emitter.run(node)
    emitter.there = [
        there and (item in kept or fixed) for item, (there, fixed) in enumerate(zip(emitter.there, forward.fixed, strict=True))
    ]
    for node in range(forward.start, problem.n):
        emitter.run(node)
    ran = set(emitter.sequence)
    for node in range(forward.start):
        if node not in ran:
            emitter.run(node)
    return emitter.sequence
