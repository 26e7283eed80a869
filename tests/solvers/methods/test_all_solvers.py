"""What holds for every solver: its answer runs, keeps to the budget, claims only what is true, and is the same every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remat_planner.schedules import Graph
from remat_planner.solvers import solve
from remat_planner.solvers.interface import ORDER_GIVEN_FORWARD
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.solvers.helpers import ANYTIME, QUICK, SOLVERS, baseline_peak, check, instance, networks, training_steps

SHARES = st.sampled_from([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])


def examples_for(name: str) -> settings:
    """Fewer examples for slow solvers."""
    return examples(8 if name in ANYTIME else 80 if name in QUICK else 20)


def each_solver(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("name", SOLVERS)(test)


@pytest.mark.slow(all_cases=True)
@each_solver
def test_answers_are_true_on_graphs_of_every_kind(name: str) -> None:
    @examples_for(name)
    @given(training_steps(), SHARES)
    def holds(graph: Graph, share: float) -> None:
        budget = max(1, graph.constant_bytes, round(share * baseline_peak(graph)))
        solution = solve(graph, budget, solver=name, time_limit=SOLVERS[name])
        check(graph, budget, solution)
        problem = Problem.of(graph)
        if solution.assumption == ORDER_GIVEN_FORWARD:
            problem = replace(problem, pinned=problem.pinned | ~problem.forward)
        assert solution.bound <= cheapest(problem, budget) + 1e-6 * max(1.0, graph.seconds)

    holds()


@pytest.mark.slow(all_cases=True)
@each_solver
def test_answers_are_true_on_networks(name: str) -> None:
    @examples_for(name)
    @given(networks(), SHARES)
    def holds(graph: Graph, share: float) -> None:
        budget = max(1, round(share * baseline_peak(graph)))
        check(graph, budget, solve(graph, budget, solver=name, time_limit=SOLVERS[name]))

    holds()


@pytest.mark.slow(all_cases=True)
@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in ANYTIME])
def test_the_same_question_has_the_same_answer(name: str) -> None:
    @examples_for(name)
    @given(networks(max_stages=5), SHARES)
    def holds(graph: Graph, share: float) -> None:
        budget = max(1, round(share * baseline_peak(graph)))
        first, second = (solve(graph, budget, solver=name, time_limit=60) for _ in range(2))
        assert (first.steps, first.bound, first.minimum) == (second.steps, second.bound, second.minimum)

    holds()


@pytest.mark.parametrize("name", ["ilp", "checkmate"])
def test_more_budget_is_never_slower(name: str) -> None:
    @examples(10)
    @given(networks(max_stages=4))
    def holds(graph: Graph) -> None:
        peak = baseline_peak(graph)
        answers = [solve(graph, round(peak * share / 10), solver=name, time_limit=60) for share in range(3, 11)]
        proven = [answer.cost for answer in answers if answer.status == "optimal"]
        assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(proven))

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_the_minimum_of_an_infeasible_answer_works(name: str) -> None:
    @examples(60)
    @given(networks())
    def holds(graph: Graph) -> None:
        budget = round(0.3 * baseline_peak(graph))
        answer = solve(graph, budget, solver=name, time_limit=60)
        if answer.status == "infeasible":
            assert solve(graph, answer.minimum, solver=name, time_limit=60).peak_bytes <= answer.minimum

    holds()


@each_solver
def test_keeps_everything_where_that_fits(name: str) -> None:
    graph = Graph.from_dag([1, 2, 3, 4], [5, 5, 5, 5], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    solution = solve(graph, 15, solver=name)
    assert (solution.cost, solution.status, solution.bound, solution.gap) == (10.0, "optimal", 10.0, 0.0)


@each_solver
def test_a_budget_below_one_op_is_proven_infeasible(name: str) -> None:
    graph = Graph.from_dag([1, 2, 3, 4], [5, 5, 5, 5], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    solution = solve(graph, 14, solver=name, time_limit=SOLVERS[name])
    assert solution.status == "infeasible"
    assert solution.bound == math.inf
    assert solution.minimum == 15
    assert "op3" in solution.note


@each_solver
def test_no_time_is_an_answer_all_the_same(name: str) -> None:
    graph, peak = instance("checkmate_unet")
    for share in (1.0, 0.6):
        check(graph, round(share * peak), solve(graph, round(share * peak), solver=name, time_limit=0))


@each_solver
def test_an_empty_step(name: str) -> None:
    graph = Graph((), (), (), (), {"parameters": 7})
    assert solve(graph, 7, solver=name).status == "optimal"
    assert solve(graph, 6, solver=name).minimum == 7
