"""What torch.compile's activation memory budget does: a knapsack over the bytes saved for the backward.

Source: torch/_functorch/partitioners.py (``activation_memory_budget``). Every saved value has its bytes and the time of its own
op; the most time is saved within a fraction of the bytes. It sees neither the peak nor that recomputing one value may need
another that was dropped as well. The fraction is lowered until the simulated peak fits, as its users do by hand.
"""

from __future__ import annotations

import numpy as np

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import Forward, just_in_time
from remat_planner.solvers.interface import Answer, Solver, Task

# The sizes are rounded up to this many parts of the limit.
_SLOTS = 2_000
_FRACTIONS = 40


class Knapsack(Solver):
    """The largest fraction of the saved bytes whose peak fits."""

    name = "knapsack"
    description = "the knapsack over saved bytes of torch.compile's memory budget, at the largest fraction that fits"

    def solve(self, task: Task) -> Answer:
        """Lower the fraction until the peak fits."""
        problem = task.problem
        candidates = Candidates(task)
        if candidates.fits(range(problem.n), "keeps everything"):
            return candidates.answer()
        forward = Forward(problem)
        nodes = sorted({int(problem.producer[i]) for i in forward.saved if not forward.fixed[i]})
        items = [[i for i in problem.writes[node] if i in forward.saved] for node in nodes]
        sizes = np.array([int(problem.bytes[made].sum()) for made in items], dtype=np.int64)
        times = problem.cost[nodes]
        for step in range(_FRACTIONS - 1, -1, -1):
            chosen = _fill(sizes, times, float(sizes.sum()) * step / _FRACTIONS)
            kept = {item for k in chosen for item in items[k]}
            if candidates.fits(just_in_time(forward, kept), f"keeps {step / _FRACTIONS:.1%} of the saved bytes"):
                break
            if candidates.out_of_time:
                break
        return candidates.answer()


def _fill(sizes: np.ndarray, times: np.ndarray, limit: float) -> list[int]:
    """Which values to save so that their bytes are at most ``limit`` and the time of the others is the least."""
    free = [int(k) for k in np.flatnonzero(sizes == 0)]
    if limit <= 0:
        return free
    slots = np.ceil(sizes * (_SLOTS / limit)).astype(np.int64)
    best = np.zeros(_SLOTS + 1)
    taken = np.zeros((len(sizes), _SLOTS + 1), dtype=np.bool_)
    for k, (size, time) in enumerate(zip(slots.tolist(), times.tolist(), strict=True)):
        if 0 < size <= _SLOTS:
            better = best[: _SLOTS + 1 - size] + time
            taken[k, size:] = better > best[size:]
            best[size:] = np.maximum(best[size:], better)
    chosen, room = free, _SLOTS
    for k in range(len(sizes) - 1, -1, -1):
        if taken[k, room]:
            chosen.append(k)
            room -= int(slots[k])
    return chosen
