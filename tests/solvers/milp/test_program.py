"""What a program promises whatever HiGHS does."""

from __future__ import annotations

import math
import random
import time

import highspy
import pytest

from remat_planner.solvers.milp import highs as milp
from remat_planner.solvers.milp.program import MixedIntegerProgram


def test_a_highs_that_does_not_come_back_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milp, "_GRACE", 0.1)
    monkeypatch.setattr(highspy.Highs, "run", lambda _: time.sleep(60))
    program = MixedIntegerProgram()
    program.at_least({program.column(1.0, integer=True): 1.0}, 1.0)
    start = time.monotonic()
    outcome = program.solve(seconds=0.2)
    assert time.monotonic() - start < 10
    assert (outcome.status, outcome.values, outcome.bound) == ("unknown", None, -float("inf"))


def test_what_highs_finds() -> None:
    program = MixedIntegerProgram()
    columns = [program.column(cost, integer=True) for cost in (3.0, 2.0)]
    program.at_least({columns[0]: 1.0, columns[1]: 1.0}, 1.0)
    outcome = program.solve(seconds=10)
    assert (outcome.status, outcome.objective, outcome.bound) == ("optimal", 2.0, 2.0)


def _market_split() -> MixedIntegerProgram:
    """Half of each of four sums, to be met by choice alone: small, and out of reach of branch and bound."""
    draw, program = random.Random(0), MixedIntegerProgram()
    choices = [program.column(integer=True) for _ in range(36)]
    for _ in range(4):
        sizes = [float(draw.randrange(100)) for _ in choices]
        terms = dict(zip(choices, sizes, strict=True))
        over, under = (program.column(1.0, upper=None) for _ in range(2))
        program.at_least({**terms, under: 1.0}, sum(sizes) // 2)
        program.at_most({**terms, over: -1.0}, sum(sizes) // 2)
    return program


@pytest.mark.slow
def test_a_solve_is_watched_and_ended() -> None:
    told: list[float] = []

    def enough(bound: float) -> bool:
        told.append(bound)
        return len(told) == 10

    start = time.monotonic()
    outcome = _market_split().solve(seconds=60, watch=enough)
    assert time.monotonic() - start < 30
    assert len(told) == 10
    assert told == sorted(told)
    assert -math.inf < told[-1] <= outcome.bound < outcome.objective
    assert outcome.status == "feasible"


def test_what_the_watcher_raises_ends_the_solve() -> None:
    def interrupted(bound: float) -> bool:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _market_split().solve(seconds=60, watch=interrupted)
    assert time.monotonic() - start < 30
