"""The search against every saved set of steps that are small enough to try them all."""

from __future__ import annotations

from itertools import chain as chained
from itertools import combinations

import pytest

from remat_planner.planner.partition.search import Search
from tests.tracer.fusion.steps import chain


@pytest.mark.parametrize("layers", [2, 4])
def test_near_the_best_of_all_sets(layers: int):
    step = chain(layers)
    sets = chained.from_iterable(combinations(step.choice, k) for k in range(len(step.choice) + 1))
    every = [step.evaluate(saved) for saved in sets]
    search = Search(step, seconds=10.0)
    least = min(judged.seconds for judged in every)
    assert search.fastest.seconds == pytest.approx(least)
    lowest = min(judged.peak for judged in every)
    for budget in range(lowest, search.fastest.peak + 1, 50):
        best = min(judged.seconds for judged in every if judged.peak <= budget)
        found = search.within(budget)
        if found.fits:
            assert found.judged.peak <= budget
            assert found.judged.seconds <= 1.25 * best
        else:
            assert found.judged.peak > budget
            assert budget < 1.3 * lowest


def test_below_every_set_the_lowest_is_told():
    step = chain(3)
    found = Search(step, seconds=10.0).within(10)
    assert not found.fits
    assert found.judged.peak > 10
