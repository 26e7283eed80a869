"""Bounds against exhaustive search, and against multipliers that are wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from remat_planner.schedules import Graph
from remat_planner.solvers import solve
from remat_planner.solvers.interface import ORDER_GIVEN_FORWARD
from remat_planner.solvers.lazy_moments.master_program import MasterProgram, closure_bound
from remat_planner.solvers.milp.program import MixedIntegerProgram
from remat_planner.solvers.problem.least_peak import least_peak_forward
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.solvers.lazy_moments.test_loop import budgets, instance, plain_budgets, training_steps


def watched_at_the_peak(problem: Problem, budget: int) -> MasterProgram:
    """The program that watches memory where a run without recomputation takes most."""
    live = problem.simulate(range(problem.n)).bytes.copy()
    live[problem.auxiliary] = 0
    return MasterProgram(problem, budget, [int(live.argmax())])


def moments_of(problem: Problem, draw: st.DataObject) -> list[int] | None:
    firm = [node for node in range(problem.n) if not problem.auxiliary[node]]
    return sorted(draw.draw(st.sets(st.sampled_from(firm), min_size=1))) if firm else None


@pytest.mark.slow
@examples(150)
@given(plain_budgets(), st.data())
def test_no_schedule_beats_the_bound(case: tuple[Graph, int], data: st.DataObject) -> None:
    graph, budget = case
    problem = Problem.of(graph)
    best = cheapest(problem, budget)
    assert closure_bound(watched_at_the_peak(problem, budget)) <= best
    moments = moments_of(problem, data)
    assert moments is not None
    assert closure_bound(MasterProgram(problem, budget, moments)) <= best


@examples(100)
@given(training_steps(), st.integers(1, 4), st.data())
def test_no_schedule_beats_the_bound_on_graphs_of_every_kind(graph: Graph, which: int, data: st.DataObject) -> None:
    problem = Problem.of(graph)
    moments = moments_of(problem, data)
    if moments is not None:
        budget = budgets(graph)[which]
        assert closure_bound(MasterProgram(problem, budget, moments)) <= cheapest(problem, budget) + 1e-9


@examples(50)
@given(plain_budgets(), st.integers(0, 2**32 - 1))
def test_wrong_multipliers_still_give_a_bound(case: tuple[Graph, int], seed: int) -> None:
    graph, budget = case
    problem = Problem.of(graph)
    master = MasterProgram(problem, budget, [problem.n - 1])
    outcome = master.solve(seconds=10, gap=0.0, relax=True)
    if outcome.duals is not None:
        noise = np.random.default_rng(seed).normal(scale=10, size=len(outcome.duals))
        assert master.program.certified(outcome.duals + noise) <= master.program.certified(outcome.duals) + 1e-6


def test_the_certified_bound_is_the_optimum_of_the_relaxation() -> None:
    program = MixedIntegerProgram()
    a, b = program.column(3.0), program.column(2.0)
    program.at_least({a: 1.0, b: 1.0}, 1.5)
    outcome = program.solve(seconds=10, relax=True)
    assert outcome.duals is not None
    assert outcome.objective == pytest.approx(3.5)
    assert 3.5 - 1e-9 <= program.certified(outcome.duals) <= 3.5


def test_the_closure_at_one_moment_says_most_on_deep_graphs() -> None:
    graph, peak = instance("checkmate_resnet50")
    problem = Problem.of(graph)
    bound = closure_bound(watched_at_the_peak(problem, math.floor(0.5 * peak)))
    assert 1.4 <= 100 * (bound / problem.seconds - 1) <= 1.4988


@examples(150)
@given(training_steps())
def test_no_schedule_that_recomputes_forward_ops_only_stays_below_the_floor(graph: Graph) -> None:
    problem = Problem.of(graph)
    assume(problem.n)
    floor, node, storages = least_peak_forward(problem)
    resident = sum(graph.storages[s].bytes for s in storages)
    assert floor == resident + int(problem.workspace[node]) + problem.constant_bytes
    forward_only = replace(problem, pinned=problem.pinned | ~problem.forward)
    assert math.isinf(cheapest(forward_only, floor - 1))
    assert not problem.auxiliary[node]


def test_gradients_that_wait_are_in_the_floor() -> None:
    # The gradient of a skip (3, two bytes) waits while the backward of what lies below the skip runs (4, which reads 1 byte and
    # makes 4). A schedule that computes the gradient again does not hold it then.
    edges = [(0, 1), (1, 2), (2, 3), (2, 4), (4, 5), (5, 6), (3, 6)]
    graph = Graph.from_dag([1] * 7, [1, 1, 1, 2, 4, 1, 1], edges, backward=3)
    problem = Problem.of(graph)
    assert least_peak_forward(problem)[:2] == (7, 4)
    assert (solve(graph, 7).cost, solve(graph, 6).cost) == (7.0, 8.0)
    assert solve(graph, 6, solver="chen").assumption == ORDER_GIVEN_FORWARD
