"""The program's choices against every saved set of steps that are small enough to try them all."""

from __future__ import annotations

from itertools import chain as chained
from itertools import combinations

import pytest

from remat_planner.planner.partition.program import fastest_within, lowest
from remat_planner.planner.partition.search import Search
from tests.tracer.fusion.steps import chain


@pytest.mark.parametrize("layers", [2, 4])
def test_the_lowest_peak_is_nearly_reached(layers: int):
    step = chain(layers)
    sets = chained.from_iterable(combinations(step.choice, k) for k in range(len(step.choice) + 1))
    least = min(step.evaluate(saved).peak for saved in sets)
    found = lowest(step)
    assert found is not None
    assert step.evaluate(found).peak <= 1.35 * least


def test_the_fastest_choice_saves_less_within_fewer_bytes():
    step = chain(12)
    found = [fastest_within(step, budget).saved for budget in (2400, 2000, 1600)]
    assert None not in found
    judged = [step.evaluate(saved) for saved in found]
    assert judged[0].saved_bytes > judged[1].saved_bytes > judged[2].saved_bytes
    assert judged[0].seconds < judged[1].seconds < judged[2].seconds


def test_within_too_few_bytes_there_is_none():
    assert fastest_within(chain(3), 150).saved is None


def test_the_search_ends_where_saving_and_recomputing_take_the_same_time():
    step = chain(12)  # computing a nonlinearity again takes less than what counts as rounding
    ticks = iter(range(10**6))
    Search(step, seconds=10**5, clock=lambda: float(next(ticks))).fastest  # noqa: B018
    assert next(ticks) < 10**4
