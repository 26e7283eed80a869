"""The bound against every saved set of steps that are small enough to try them all."""

from __future__ import annotations

import math
from itertools import chain as chained
from itertools import combinations

import pytest

from remat_planner.planner.partition.bound import seconds_at_least
from remat_planner.tracer.fusion import FusedStep, Values, least_seconds
from tests.tracer.fusion.steps import RATES, chain, value


@pytest.mark.parametrize("layers", [2, 4])
def test_no_saved_set_is_below_it(layers: int):
    step = chain(layers)
    sets = chained.from_iterable(combinations(step.choice, k) for k in range(len(step.choice) + 1))
    for judged in map(step.evaluate, sets):
        assert 0.9 * least_seconds(step) < seconds_at_least(step, judged.peak) <= judged.seconds


def _with_parts() -> FusedStep:
    """Two kernels in a row, each of which has its gradients of weight and input as parts of one kernel."""
    values = [
        value("input", "given"),
        value("convolution0", "kernel", (0,)),
        value("convolution1", "kernel", (1,)),
        value("sum", "reduction", (2,), 1, rows=1),
        value("tangents", "given", (), 1),
        value("expanded", "pointwise", (4,)),
        value("both1", "kernel", (5, 1), 0),
        value("weight1", "part", (6,), 200),
        value("grown1", "part", (6,)),
        value("both0", "kernel", (8, 0), 0),
        value("weight0", "part", (9,), 200),
        value("grown0", "part", (9,)),
    ]
    names = {v.name: k for k, v in enumerate(values)}
    forward = tuple(k < 4 for k in range(len(values)))
    return FusedStep(Values(tuple(values), names, forward, frozenset({3}), frozenset({7, 10, 11})), RATES, cpu=False)


def test_gradients_that_are_parts_of_one_kernel_count():
    step = _with_parts()
    sets = chained.from_iterable(combinations(step.choice, k) for k in range(len(step.choice) + 1))
    judged = [step.evaluate(saved) for saved in sets]
    assert all(seconds_at_least(step, one.peak) <= one.seconds for one in judged)
    gradients = 500
    assert math.isinf(seconds_at_least(step, gradients))


def test_fewer_bytes_raise_it():
    step = chain(10)
    peak = step.evaluate(step.choice).peak
    bounds = [seconds_at_least(step, int(share * peak)) for share in (1.0, 0.8, 0.65)]
    assert 0.9 * least_seconds(step) < bounds[0] < bounds[1] < bounds[2]


def test_a_peak_that_no_set_has_is_proven_so():
    assert math.isinf(seconds_at_least(chain(3), 150))
