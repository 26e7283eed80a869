"""Release values that are idle at the peak, most bytes per second of recomputation first, until the peak fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import numpy as np

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import fixed_items
from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.problem import Problem, SequenceBuilder

# Each round lowers the peak by this fraction. The rounds do not depend on the budget: a smaller one only needs more of them.
_STEP = 0.02


class Greedy(Solver):
    """A gap lies between two uses of an item; releasing the item there costs its recomputation before the second use."""

    name = "greedy"
    description = "drops values at the peak, best bytes per second of recomputation first, until the peak fits"
    source = "folklore"
    quick = True

    def solve(self, task: Task) -> Answer:
        """Release items in gaps over the peak until it falls by a step; repeat at the new peak."""
        problem = task.problem
        candidates = Candidates(task)
        gaps = _Gaps(problem)
        nodes = list(range(problem.n))
        while True:
            run = candidates.offer(nodes, f"{gaps.count} values dropped between two uses")
            if run.peak_bytes <= task.budget or candidates.out_of_time or not nodes:
                return candidates.answer()
            peak = run.peak_step
            if not gaps.drop(_next_first_run(nodes, peak), _STEP * run.peak_bytes):
                return candidates.answer()
            nodes = _emit(problem, gaps.dropped)


def _next_first_run(nodes: list[int], step: int) -> int:
    """The node that first runs at ``step`` or whose inputs are recomputed there."""
    seen = set(nodes[:step])
    return next((node for node in nodes[step:] if node not in seen), max(nodes))


def _emit(problem: Problem, dropped: Mapping[int, list[int]]) -> list[int]:
    builder = SequenceBuilder(problem, by_index=False)
    for node in range(problem.n):
        builder.run(node)
        for item in dropped.get(node, ()):
            builder.available[item] = False
    return builder.sequence


class _Gaps:
    """Which items are released between which of their uses.

    Attributes:
        dropped: for each node the items released after it.
        count: number of gaps in ``dropped``.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        fixed = fixed_items(problem)
        self._uses = [[] if fixed[item] else [int(problem.producer[item]), *problem.readers[item]] for item in range(problem.m)]
        self.dropped: dict[int, list[int]] = {}
        self.count = 0
        self._dropped_after: set[tuple[int, int]] = set()  # (item, the use before the gap)

    def drop(self, moment: int, excess: float) -> bool:
        """Drop gaps around node ``moment``, best first, until ``excess`` bytes are free there; False if no gap is left."""
        problem = self._problem
        rates = []
        for item in np.flatnonzero(problem.bytes).tolist():
            before = self._idle(item, moment)
            if before is None or (item, before) in self._dropped_after:
                continue
            uses = self._uses[item]
            seconds = self._seconds(item, uses[bisect_left(uses, moment)])
            rates.append((-int(problem.bytes[item]) / max(seconds, 1e-300), item, before))
        freed = 0
        for _, item, before in sorted(rates):
            if freed >= excess:
                break
            self._dropped_after.add((item, before))
            self.dropped.setdefault(before, []).append(item)
            freed += int(problem.bytes[item])
            self.count += 1
        return bool(freed)

    def _idle(self, item: int, moment: int) -> int | None:
        """The last use of the item before ``moment`` if the item is resident but unused then, else None."""
        uses = self._uses[item]
        at = bisect_left(uses, moment)
        return uses[at - 1] if 0 < at < len(uses) and uses[at] != moment else None

    def _seconds(self, item: int, moment: int) -> float:
        """Seconds to recompute the item just before ``moment``, with the inputs that are not resident then."""
        problem = self._problem
        pending, seen, seconds = [int(problem.producer[item])], set(), 0.0
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            seconds += float(problem.cost[node])
            pending += [int(problem.producer[i]) for i in problem.reads[node] if not self._is_resident(i, moment)]
        return seconds

    def _is_resident(self, item: int, moment: int) -> bool:
        uses = self._uses[item]
        if not uses:
            return True
        at = bisect_left(uses, moment)
        return at < len(uses) and (item, uses[at - 1]) not in self._dropped_after
