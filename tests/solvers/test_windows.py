"""Windows solved again: never worse, within the budget, and as good as the best where that can be known."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from schedules import Graph
from solvers import solve
from solvers.anneal import nodes_of
from solvers.base import Deadline
from solvers.problem import Problem
from solvers.windows import solve_windows
from tests.solvers.exhaustive import cheapest
from tests.solvers.test_ilp import budgets, instance, training_steps


@settings(max_examples=60, deadline=None)
@given(training_steps(), st.integers(1, 4))
def test_a_better_sequence_or_the_same(graph: Graph, which: int) -> None:
    problem = Problem.of(graph)
    budget = max(1, budgets(graph)[which])
    start = solve(graph, budget, solver="greedy", time_limit=1)
    if start.status == "infeasible":
        return
    nodes = nodes_of(problem, start.steps)
    found = problem.simulate(solve_windows(problem, budget, nodes, Deadline(5)))
    assert found.peak_bytes <= budget
    assert cheapest(problem, budget) - 1e-9 <= found.seconds <= problem.simulate(nodes).seconds


def test_a_poor_schedule_is_made_much_better() -> None:
    graph, peak = instance("checkmate_unet")
    budget = math.floor(0.6 * peak)
    start, best = solve(graph, budget, solver="greedy"), solve(graph, budget, time_limit=20)
    assert best.status == "optimal"
    problem = Problem.of(graph)
    found = problem.simulate(solve_windows(problem, budget, nodes_of(problem, start.steps), Deadline(20)))
    assert found.peak_bytes <= budget
    assert found.seconds - best.cost <= 0.2 * (start.cost - best.cost)


def test_no_time_changes_nothing() -> None:
    problem = Problem.of(Graph.from_dag([1, 2, 1, 1], [2, 2, 2, 2], [(0, 1), (1, 2), (0, 3), (2, 3)], 2))
    assert solve_windows(problem, 100, [0, 1, 2, 3], Deadline(0)) == [0, 1, 2, 3]
