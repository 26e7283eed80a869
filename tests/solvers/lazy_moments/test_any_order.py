"""The bound on every order against exhaustive search over all of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.lazy_moments import any_order_bound
from remat_planner.solvers.problem import Problem
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.solvers.lazy_moments.test_loop import budgets, plain_budgets, training_steps


@examples(60)
@given(training_steps(max_ops=6), st.integers(1, 4))
def test_no_order_beats_the_bound_on_graphs_of_every_kind(graph: Graph, which: int) -> None:
    problem, budget = Problem.of(graph), budgets(graph)[which]
    assert any_order_bound(problem, budget, Deadline(20)) <= cheapest(problem, budget, any_order=True) + 1e-9


@pytest.mark.slow
@examples(60)
@given(plain_budgets())
def test_no_order_beats_the_bound(case: tuple[Graph, int]) -> None:
    graph, budget = case
    problem = Problem.of(graph)
    assert any_order_bound(problem, budget, Deadline(20)) <= cheapest(problem, budget, any_order=True) + 1e-9


def chain(length: int) -> Graph:
    """``length`` ops of 1 byte and 1 second, and as many backward ops, each of which reads the result of its forward op."""
    steps = [(i, i + 1) for i in range(2 * length - 1)]
    return Graph.from_dag(
        [1] * 2 * length, [1] * 2 * length, [*steps, *((i, 2 * length - 1 - i) for i in range(length - 1))], length
    )


def test_the_bound_of_a_chain_says_what_is_recomputed_after_the_turn() -> None:
    problem = Problem.of(chain(6))
    bound = any_order_bound(problem, 5, Deadline(20))
    assert problem.seconds < bound <= cheapest(problem, 5, any_order=True)


def test_what_one_node_needs_at_once_is_too_much_in_every_order() -> None:
    assert any_order_bound(Problem.of(chain(8)), 1, Deadline(20)) == math.inf
