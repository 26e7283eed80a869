"""The best of several sequences, in whatever order they are offered."""

from __future__ import annotations

from itertools import permutations

import pytest

from remat_planner.schedules import Graph
from remat_planner.solvers import Task
from remat_planner.solvers.candidates import Candidates

# 0 -> 1 -> 2 -> 3(2, 1) -> 4(3, 0): 85 bytes in 5 s, 55 in 6 s, 80 in 8 s.
GRAPH = Graph.from_dag([1] * 5, [30, 20, 30, 5, 5], [(0, 1), (1, 2), (2, 3), (1, 3), (3, 4), (0, 4)], backward=3)
OFFERS = {"all": [0, 1, 2, 3, 4], "drop 0": [0, 1, 2, 3, 0, 4], "drop 0 and 1": [0, 1, 2, 0, 1, 3, 0, 4]}


@pytest.mark.parametrize(("budget", "best"), [(85, "all"), (84, "drop 0"), (10, "drop 0")])
def test_the_cheapest_that_fits_or_else_the_lowest(budget: int, best: str) -> None:
    for order in permutations(OFFERS):
        candidates = Candidates(Task(GRAPH, budget))
        fitting = [candidates.fits(OFFERS[name], name) for name in order]
        assert candidates.feasible == any(fitting) == (budget > 10)
        assert candidates.answer().note == best
        assert tuple(candidates.answer().steps) == tuple(OFFERS[best])
        assert candidates.answer("another note").note == "another note"


def test_an_answer_needs_an_offer() -> None:
    with pytest.raises(RuntimeError, match="no sequence"):
        Candidates(Task(GRAPH, 1)).answer()
