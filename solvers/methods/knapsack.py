"""The knapsack of torch.compile's activation memory budget over the bytes saved for the backward.

Each value has its bytes as weight and the seconds of its own op as worth; the knapsack saves the most seconds within a
fraction of the bytes. It sees neither the peak nor that recomputing one value may need another that is not saved. The fraction
is lowered until the simulated peak fits, as its users do by hand.
"""

from __future__ import annotations

import numpy as np

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import Forward, just_in_time
from remat_planner.solvers.interface import Answer, Solver, Task

# Sizes are rounded up to this many slots per limit, which bounds the table of the dynamic program.
_SLOTS = 2_000
# Fractions tried: multiples of 1 / _FRACTIONS, downwards.
_FRACTIONS = 40


class Knapsack(Solver):
    """The largest fraction of the saved bytes whose peak fits."""

    name = "knapsack"
    description = "the knapsack over saved bytes of torch.compile's memory budget, at the largest fraction that fits"
    source = "torch/_functorch/partitioners.py, activation_memory_budget"
    quick = True

    def solve(self, task: Task) -> Answer:
        """Lower the fraction until the peak fits."""
        problem = task.problem
        candidates = Candidates(task)
        if candidates.fits(range(problem.n), "keeps everything"):
            return candidates.answer()
        forward = Forward(problem)
        nodes = sorted({int(problem.producer[i]) for i in forward.saved if not forward.fixed[i]})
        items = [[i for i in problem.writes[node] if i in forward.saved] for node in nodes]
        sizes = np.array([int(problem.bytes[saved].sum()) for saved in items], dtype=np.int64)
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
    """Indices of the values to save: at most ``limit`` bytes, and the least seconds among the others."""
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
