"""What a program promises whatever HiGHS does."""

from __future__ import annotations

import time

import highspy
import pytest

from solvers import milp
from solvers.milp import Program


def test_a_highs_that_does_not_come_back_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milp, "_GRACE", 0.1)
    monkeypatch.setattr(highspy.Highs, "run", lambda _: time.sleep(60))
    program = Program()
    program.at_least({program.column(1.0, integer=True): 1.0}, 1.0)
    start = time.monotonic()
    outcome = program.solve(seconds=0.2)
    assert time.monotonic() - start < 10
    assert (outcome.status, outcome.values, outcome.bound) == ("unknown", None, -float("inf"))


def test_what_highs_finds() -> None:
    program = Program()
    columns = [program.column(cost, integer=True) for cost in (3.0, 2.0)]
    program.at_least({columns[0]: 1.0, columns[1]: 1.0}, 1.0)
    outcome = program.solve(seconds=10)
    assert (outcome.status, outcome.objective, outcome.bound) == ("optimal", 2.0, 2.0)
