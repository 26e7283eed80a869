"""Deadlines nest: a part ends with the whole."""

from __future__ import annotations

from remat_planner.solvers.deadline import Deadline


def test_a_part_of_a_time_limit_ends_with_it() -> None:
    whole = Deadline(60.0)
    part = whole.part(0.5).part(0.5)
    assert 14.0 < part.remaining <= 15.0
    assert 59.0 < part.at_most <= 60.0
    assert not part.expired
    whole.end()
    assert part.expired
    assert part.remaining == 0.0


def test_a_deadline_that_was_ended_is_not_extended() -> None:
    deadline = Deadline(60.0)
    deadline.extend_to(Deadline(90.0))
    assert 89.0 < deadline.remaining <= 90.0
    deadline.end()
    deadline.extend_to(Deadline(90.0))
    assert deadline.expired
