"""The optimal persistent schedule of a chain of unequal stages, on the cut points of a graph.

Each stage may keep all that its backward reads, or less at the price of recomputation (options as in Rockmate). The dynamic
program, in ``solvers/chain``, counts memory in slots and rounds up; simulation then shows how many slots the budget allows.
"""

from __future__ import annotations

import numpy as np

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import (
    Action,
    Chain,
    Forward,
    in_slots,
    measure,
    persistent_actions,
    short_views,
    slots_of,
    sweep,
    table,
)
from remat_planner.solvers.interface import Answer, Solver, Task

# Entries of the table, at most; it has stages^2 x slots of them.
_MOST_ENTRIES = 20_000_000
# Stages of a chain, at most: the time grows with their cube.
_MOST_STAGES = 180
# The table extends beyond the budget by this fraction, because rounding up and worst cases waste memory.
_BEYOND = 0.25
# Schedules tried in the search for the lowest peak, from the fewest slots upwards.
_LOWEST = 8
# Entries of the innermost loop per second, a cautious figure to decide whether the remaining time suffices.
_ENTRIES_PER_SECOND = 2e8


class Rotor(Solver):
    """The dynamic program of Rotor with options per stage, on every view of the graph as a chain."""

    name = "rotor"
    description = "optimal persistent schedules of unequal chains (Beaumont et al. 2019), with options per stage"
    proves = "nothing for a graph; its table is optimal among persistent schedules of the chain, in slots"
    source = (
        "Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova, Optimal checkpointing for heterogeneous chains (2019); "
        "options as in Rockmate (Zhao, Le Hellard, Eyraud-Dubois, Gusak and Beaumont 2023)"
    )
    quick = True

    def solve(self, task: Task) -> Answer:
        """The cheapest schedule over all views."""
        candidates = Candidates(task)
        everything = candidates.offer(range(task.problem.n), "keeps everything")
        if candidates.feasible:
            return candidates.answer()
        forward = Forward(task.problem)
        views = short_views(forward, _MOST_STAGES)
        for chain in views:
            if candidates.out_of_time:
                break
            _solve_chain(task, chain, candidates, task.budget)
        if not candidates.feasible:
            # The lowest peak does not depend on the budget, so the table covers the peak without recomputation.
            for chain in views:
                if candidates.out_of_time:
                    break
                _solve_chain(task, chain, candidates, everything.peak_bytes, lowest=True)
        return candidates.answer()


def _solve_chain(task: Task, chain: Chain, candidates: Candidates, budget: int, *, lowest: bool = False) -> None:
    """Offer the best persistent schedule that fits, from a table for ``budget`` bytes; or those with the fewest slots."""
    count = len(chain.stages)
    measured = measure(chain)
    unit, slots = slots_of(measured.stages, max(1, budget - task.problem.constant_bytes), _BEYOND, _MOST_ENTRIES)
    if count**3 / 6 * slots / _ENTRIES_PER_SECOND > task.deadline.remaining:
        return
    stages = in_slots(measured.stages, unit)
    best = table(stages, slots)
    options = int(np.isfinite(stages.save[0]).sum())
    note = f"{options} options on a {chain.words}"
    low, high = int(np.argmax(np.isfinite(best[0, count - 1]))), slots
    if not np.isfinite(best[0, count - 1, slots]):
        return
    if lowest:
        high = min(high, low + _LOWEST)
    while low <= high and not candidates.out_of_time:
        middle = low if lowest else (low + high) // 2
        actions = [Action("snapshot", 0), *persistent_actions(stages, best, 0, count - 1, middle)]
        if candidates.fits(sweep(chain, actions, measured.options).nodes, note) or lowest:
            low = middle + 1
        else:
            high = middle - 1
