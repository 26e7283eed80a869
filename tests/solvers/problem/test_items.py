"""Items: which allocations are one, and how in-place results share memory."""

from __future__ import annotations

import numpy as np
import pytest

from remat_planner.schedules import Graph, InvalidScheduleError, Op, Storage, Value
from remat_planner.solvers.problem.reduced_graph import Problem


def test_values_allocated_and_released_together_are_one_item() -> None:
    """A normalization: its mean and deviation are read by its backward alone, its output by others too."""
    storages = (Storage(8), Storage(1), Storage(2), Storage(4), Storage(5))
    values = tuple(Value(name, i) for i, name in enumerate(("y", "mean", "deviation", "loss", "gradient")))
    ops = (
        Op("norm", (), (0, 1, 2), seconds=1.0),
        Op("loss", (0,), (3,), seconds=1.0),
        Op("norm_backward", (1, 2, 3), (4,), seconds=1.0),
    )
    problem = Problem.of(Graph(ops, values, storages, results=(4,)))
    assert problem.bytes.tolist() == [8, 3, 4, 5]
    assert problem.writes == ((0, 1), (2,), (3,))
    assert problem.reads == ((), (0,), (1, 2))
    assert problem.lasting.tolist() == [False, False, False, True]


def test_in_place_results_are_read_with_their_base() -> None:
    storages = (Storage(10), Storage(1))
    values = (Value("a", 0), Value("relu", 0), Value("b", 1))
    ops = (Op("a", (), (0,), seconds=1), Op("relu_", (0,), (1,), seconds=1), Op("b", (1,), (2,), seconds=1))
    problem = Problem.of(Graph(ops, values, storages))
    assert problem.reads == ((), (0,), (0, 1))
    assert problem.bytes.tolist() == [10, 0, 1]
    assert np.flatnonzero(problem.in_place).tolist() == [1]
    with pytest.raises(InvalidScheduleError):
        problem.simulate([0, 1, 0, 2])
    assert problem.simulate([0, 1, 0, 1, 2]).peak_bytes == 11
