"""Checkpoints at a sublinear number of cut points.

The paper divides a chain of equal steps into sqrt(n) segments. For unequal steps it closes a segment once its bytes exceed a
limit, and searches over that limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import Chain, Forward, chains, just_in_time, kept_by_segments
from remat_planner.solvers.interface import Answer, Solver, Task

# Limits tried in the search, evenly spaced on a logarithmic scale.
_SEGMENT_SIZES = 24


class Chen(Solver):
    """Both divisions of the paper, on every view of the graph as a chain."""

    name = "chen"
    description = "checkpoints at sqrt(n) cut points, or greedily with a search for the segment size (Chen et al. 2016)"
    proves = "nothing; O(sqrt n) memory on a chain of n equal steps"
    source = "Chen, Xu, Zhang and Guestrin, Training deep nets with sublinear memory cost (2016)"
    quick = True

    def solve(self, task: Task) -> Answer:
        """The cheapest division that fits."""
        candidates = Candidates(task)
        if candidates.fits(range(task.problem.n), "keeps everything"):
            return candidates.answer()
        forward = Forward(task.problem)
        position = {node: p for p, node in enumerate(forward.main)}
        for chain in chains(forward):
            begins = [position[stage.nodes[0]] for stage in chain.stages]
            tried: set[tuple[int, ...]] = set()
            for method, stages in _divisions(chain):
                if stages in tried:
                    continue
                tried.add(stages)
                kept = kept_by_segments(forward, [begins[i] for i in stages])
                candidates.offer(just_in_time(forward, kept), f"{method}: {len(stages)} segments on a {chain.words}")
                if candidates.out_of_time:
                    return candidates.answer()
        return candidates.answer()


def _divisions(chain: Chain) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The stages at which segments begin, by either division."""
    length = len(chain.stages)
    count = math.isqrt(length - 1) + 1
    yield "sqrt(n)", tuple(sorted({length * i // count for i in range(count)}))
    sizes = chain.forward.problem.bytes
    inside = [int(sizes[list(stage.saved)].sum()) for stage in chain.stages]
    least, most = max(1, min(inside)), max(1, sum(inside))
    for i in range(_SEGMENT_SIZES):
        limit = least * (most / least) ** (i / (_SEGMENT_SIZES - 1))
        begins, collected = [0], 0
        for stage, size in enumerate(inside):
            if collected > limit:
                begins.append(stage)
                collected = 0
            collected += size
        yield "greedy", tuple(begins)
