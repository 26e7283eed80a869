"""The bound against every saved set of steps that are small enough to try them all."""

from __future__ import annotations

import math
from itertools import chain as chained
from itertools import combinations

import pytest

from remat_planner.planner.partition.bound import seconds_at_least
from remat_planner.tracer.fusion import least_seconds
from tests.tracer.fusion.steps import chain


@pytest.mark.parametrize("layers", [2, 4])
def test_no_saved_set_is_below_it(layers: int):
    step = chain(layers)
    sets = chained.from_iterable(combinations(step.choice, k) for k in range(len(step.choice) + 1))
    for judged in map(step.evaluate, sets):
        assert 0.9 * least_seconds(step) < seconds_at_least(step, judged.peak) <= judged.seconds


def test_fewer_bytes_raise_it():
    step = chain(10)
    peak = step.evaluate(step.choice).peak
    bounds = [seconds_at_least(step, int(share * peak)) for share in (1.0, 0.8, 0.65)]
    assert 0.9 * least_seconds(step) < bounds[0] < bounds[1] < bounds[2]


def test_a_peak_that_no_set_has_is_proven_so():
    assert math.isinf(seconds_at_least(chain(3), 150))
