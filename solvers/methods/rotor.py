"""The optimal persistent schedule of a chain of unequal stages, on the cut points of a graph.

Each stage may keep all that its backward reads, or less at the price of recomputation (options as in Rockmate). The dynamic
program, in ``solvers/chain``, counts memory in slots and rounds up; simulation then shows how many slots the budget allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import numpy as np

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import Action, Chain, Forward, Stages, chain_at, chains, in_slots, measure, steps, sweep, table
from remat_planner.solvers.interface import Answer, Solver, Task

# Slots that the budget is divided into, at most: finer slots waste less memory and take more time.
_MOST_SLOTS = 1_000
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
        views = _views(forward)
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
    unit, slots = _slots(measured.stages, max(1, budget - task.problem.constant_bytes), count)
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
        actions = list(_actions(stages, best, middle))
        if candidates.fits(sweep(chain, actions, measured.options).nodes, note) or lowest:
            low = middle + 1
        else:
            high = middle - 1


def _slots(stages: Stages, room: int, count: int) -> tuple[int, int]:
    """Bytes of a slot, and the number of slots in the table."""
    most = max(100, min(_MOST_SLOTS, _MOST_ENTRIES // count**2))
    sizes = np.concatenate([stages.inputs, stages.saved.ravel(), stages.backward_needs.ravel(), stages.forward_needs.ravel()])
    common = gcd(*(int(size) for size in np.unique(sizes) if size)) or 1
    unit = common * -(-room // (common * most))
    return unit, int(room * (1 + _BEYOND)) // unit + 1


def _actions(stages: Stages, best: np.ndarray, slots: int) -> Iterator[Action]:
    """The actions of the best schedule in the table; the backward of stage a follows when stages a + 1 to b are done."""
    yield Action("snapshot", 0)
    waiting: list[int] = []  # saved stages whose backward is still to come
    last = len(stages.inputs)
    for (kind, a, which), _, b in steps(stages, best, slots):
        while waiting and waiting[-1] > a:
            last = waiting.pop()
            yield Action("backward", last)
        if kind == "forward":
            yield from (Action("forward", i) for i in range(a, which))
            yield Action("snapshot", which)
        else:
            yield Action("save", a, which)
            waiting.append(a)
            if a < b:
                yield Action("snapshot", a + 1)
    while waiting:
        yield Action("backward", waiting.pop())


def _views(forward: Forward) -> list[Chain]:
    """The views short enough for the table; if all are too long, the first with neighbouring stages merged."""
    views = list(chains(forward))
    short = [view for view in views if len(view.stages) <= _MOST_STAGES]
    if short or not views:
        return short
    position = {node: p for p, node in enumerate(forward.main)}
    stages = views[0].stages
    begins = [stages[len(stages) * i // _MOST_STAGES].nodes[0] for i in range(1, _MOST_STAGES)]
    return [chain_at(forward, [position[node] for node in begins])]
