"""``offload``: keep, recompute or copy each activation, by lazy moments with copies and a search from there."""

from __future__ import annotations

from dataclasses import replace

from remat_planner.solvers.copies import NO_TIME_TO_COMPILE, CopySearch
from remat_planner.solvers.interface import COPIES_AT_RATES, ORDER_GIVEN, Answer, Solver, Task
from remat_planner.solvers.registry import get


class Offload(Solver):
    """Lazy moments with copies: the program gives the bound, and the start of the search."""

    name = "offload"
    description = "keeps, recomputes or copies each activation: lazy moments with copies, then annealed decisions"
    proves = "a lower bound for all schedules in the given order of first runs, with copies at the given rates or without"
    source = "this project; HiGHS"
    copies = True
    anytime = True

    def solve(self, task: Task) -> Answer:
        """The best of the policies in use today, of what the program decides, and of the search from there."""
        if not CopySearch.in_time(task.deadline):
            return replace(get("greedy").solve(task.without_transfers()), note=NO_TIME_TO_COMPILE)
        search = CopySearch(task)
        search.begin()
        search.anneal()
        copies = COPIES_AT_RATES if task.graph.pools else ""
        return Answer(search.steps(), search.bound, ORDER_GIVEN + copies)
