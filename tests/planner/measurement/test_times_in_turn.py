"""Times of steps in turn: what slows the machine down for a while does not look like extra time."""

from __future__ import annotations

import itertools

import pytest

from remat_planner.planner.measurement import times_in_turn


def test_a_machine_that_slows_down_does_not_bend_the_ratio():
    slower = (1 + 0.1 * k for k in itertools.count())  # by a tenth of the first step with each step
    times = times_in_turn(lambda: 0.11 * next(slower), lambda: 0.1 * next(slower), (1.2, 1.0))
    assert times.overhead == pytest.approx(0.1)
    assert times.overheads == pytest.approx([0.1] * len(times.overheads))
    assert times.planned > 0.15
    assert times.predicted_overhead == pytest.approx(0.2)


def test_long_steps_run_once_beside_two_of_eagers():
    ran: list[str] = []
    times = times_in_turn(lambda: ran.append("planned") or 50.0, lambda: ran.append("eager") or 40.0, (1.0, 0.0))
    assert ran == ["eager", "planned", "eager"]
    assert times.overheads == (0.25,)
    assert times.predicted_overhead == 0.0
