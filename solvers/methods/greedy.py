"""Drop what frees the most bytes per second of recomputation, at the moment of the peak, until the peak fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import numpy as np

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import fixed_items
from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.problem import Emitter, Problem

# The peak is lowered by this part of it at a time, whatever the budget: a smaller budget only goes further on the same way.
_STEP = 0.02


class Greedy(Solver):
    """A gap is the time between two uses of an item; dropping it there costs its recomputation before the second use."""

    name = "greedy"
    description = "drops values at the peak, best bytes per second of recomputation first, until the peak fits"

    def solve(self, task: Task) -> Answer:
        """Drop gaps over the peak, as many as lower it by a step, and look for the new peak."""
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
    """The node whose first run happens at ``step``, or is prepared there."""
    seen = set(nodes[:step])
    return next((node for node in nodes[step:] if node not in seen), max(nodes))


def _emit(problem: Problem, dropped: Mapping[int, list[int]]) -> list[int]:
    emitter = Emitter(problem, by_index=False)
    for node in range(problem.n):
        emitter.run(node)
        for item in dropped.get(node, ()):
            emitter.there[item] = False
    return emitter.sequence


class _Gaps:
    """Which items are dropped between which of their uses."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        fixed = fixed_items(problem)
        self._uses = [[] if fixed[item] else [int(problem.producer[item]), *problem.readers[item]] for item in range(problem.m)]
        self.dropped: dict[int, list[int]] = {}
        self.count = 0
        self._gone: set[tuple[int, int]] = set()  # (item, the use before the gap)

    def drop(self, moment: int, excess: float) -> bool:
        """Drop gaps around node ``moment``, best first, until ``excess`` bytes are free there; False if there is none."""
        problem = self._problem
        rates = []
        for item in np.flatnonzero(problem.bytes).tolist():
            before = self._idle(item, moment)
            if before is None or (item, before) in self._gone:
                continue
            uses = self._uses[item]
            seconds = self._seconds(item, uses[bisect_left(uses, moment)])
            rates.append((-int(problem.bytes[item]) / max(seconds, 1e-300), item, before))
        freed = 0
        for _, item, before in sorted(rates):
            if freed >= excess:
                break
            self._gone.add((item, before))
            self.dropped.setdefault(before, []).append(item)
            freed += int(problem.bytes[item])
            self.count += 1
        return bool(freed)

    def _idle(self, item: int, moment: int) -> int | None:
        """The last use of the item before ``moment``, where it is held then but not used."""
        uses = self._uses[item]
        at = bisect_left(uses, moment)
        return uses[at - 1] if 0 < at < len(uses) and uses[at] != moment else None

    def _seconds(self, item: int, moment: int) -> float:
        """Seconds to compute the item again just before ``moment``, with what is not there by then."""
        problem = self._problem
        pending, seen, seconds = [int(problem.producer[item])], set(), 0.0
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            seconds += float(problem.cost[node])
            pending += [int(problem.producer[i]) for i in problem.reads[node] if not self._there(i, moment)]
        return seconds

    def _there(self, item: int, moment: int) -> bool:
        uses = self._uses[item]
        if not uses:
            return True
        at = bisect_left(uses, moment)
        return at < len(uses) and (item, uses[at - 1]) not in self._gone
