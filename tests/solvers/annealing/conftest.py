"""Compiles the kernel before the tests: with a short time limit solvers do without it where it would have to be compiled."""

from __future__ import annotations

import math

import pytest

from remat_planner.schedules import Graph
from remat_planner.solvers.annealing import kernel
from remat_planner.solvers.annealing.search import anneal
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem


@pytest.fixture(autouse=True, scope="session")
def _compiled() -> None:
    problem = Problem.of(Graph.from_dag([1, 1], [2, 2], [(0, 1)]))
    anneal(problem, 1, Deadline(math.inf), moves=1)
    assert kernel.ready()
