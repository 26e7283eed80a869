"""Windows solved again: never worse, within the budget, and as good as the best where that can be known."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from remat_planner.schedules import Graph, InvalidScheduleError
from remat_planner.solvers import solve
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.lazy_moments.options import WindowsOptions
from remat_planner.solvers.lazy_moments.windows import solve_windows
from remat_planner.solvers.problem.reduced_graph import Problem
from remat_planner.solvers.problem.sequence_builder import SequenceBuilder
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.solvers.helpers import networks
from tests.solvers.lazy_moments.test_loop import budgets, instance, training_steps


@examples(60)
@given(training_steps(), st.integers(1, 4))
def test_a_better_sequence_or_the_same(graph: Graph, which: int) -> None:
    problem = Problem.of(graph)
    budget = max(1, budgets(graph)[which])
    start = solve(graph, budget, solver="greedy", time_limit=1)
    if start.status == "infeasible":
        return
    nodes = problem.nodes_of(start.steps)
    found = problem.simulate(solve_windows(problem, budget, nodes, Deadline(5)))
    assert found.peak_bytes <= budget
    assert cheapest(problem, budget) - 1e-9 <= found.seconds <= problem.simulate(nodes).seconds


@st.composite
def loose_sequences(draw: st.DrawFn) -> tuple[Problem, list[int]]:
    """A training step and a sequence for it: auxiliary nodes early and late, some of the others more than once."""
    problem = Problem.of(draw(st.one_of(training_steps(max_ops=12), networks(max_stages=4))))
    builder = SequenceBuilder(problem, by_index=draw(st.booleans()))
    free = [node for node in range(problem.n) if not problem.pinned[node]]
    wandering = [node for node in free if problem.auxiliary[node]]
    for node in range(problem.n):
        if problem.auxiliary[node] and (node in builder.sequence or draw(st.booleans())):
            continue
        builder.run(node)
        if free and not (problem.outside[node] and any(problem.outside[node + 1 :])) and draw(st.booleans()):
            for again in draw(st.lists(st.sampled_from(wandering or free), max_size=2)):
                if not any(problem.pinned[problem.producer[i]] and not builder.available[i] for i in problem.reads[again]):
                    builder.run(again)
    for node in sorted(set(range(problem.n)).difference(builder.sequence)):
        builder.run(node)
    return problem, builder.sequence


@pytest.mark.slow
@examples(200)
@given(loose_sequences(), st.integers(2, 6))
def test_windows_of_any_sequence(case: tuple[Problem, list[int]], length: int) -> None:
    problem, nodes = case
    try:
        before = problem.simulate(nodes)
    except InvalidScheduleError:  # a pinned node would have had to run twice
        assume(False)
    options = WindowsOptions(length=length)
    found = problem.simulate(solve_windows(problem, before.peak_bytes, nodes, Deadline(5), options))
    assert found.peak_bytes <= before.peak_bytes
    assert found.seconds <= before.seconds


def test_a_poor_schedule_is_made_much_better() -> None:
    graph, peak = instance("checkmate_unet")
    budget = math.floor(0.6 * peak)
    start, best = solve(graph, budget, solver="greedy"), solve(graph, budget, time_limit=20)
    assert best.status == "optimal"
    problem = Problem.of(graph)
    found = problem.simulate(solve_windows(problem, budget, problem.nodes_of(start.steps), Deadline(20)))
    assert found.peak_bytes <= budget
    assert found.seconds - best.cost <= 0.2 * (start.cost - best.cost)


def test_no_time_changes_nothing() -> None:
    problem = Problem.of(Graph.from_dag([1, 2, 1, 1], [2, 2, 2, 2], [(0, 1), (1, 2), (0, 3), (2, 3)], 2))
    assert solve_windows(problem, 100, [0, 1, 2, 3], Deadline(0)) == [0, 1, 2, 3]
