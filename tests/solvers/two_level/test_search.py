"""Two levels: blocks are found and cut alike, options say what the simulator says, plans fit and are near the proof."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from remat_planner.schedules import Graph, Op, Storage, Value, simulate
from remat_planner.solvers import solve
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem.reduced_graph import Problem
from remat_planner.solvers.two_level.block_chain import undominated
from remat_planner.solvers.two_level.blocks import partitions, turning_point
from remat_planner.solvers.two_level.front import front
from remat_planner.solvers.two_level.option import option_for
from remat_planner.solvers.two_level.pattern import patterns
from remat_planner.solvers.two_level.search import TwoLevels
from tests.sampling import examples
from tests.strategies import graphs


def layers(count: int, *, width: int = 4, unlike: bool = False) -> Graph:
    """A training step of residual layers: ``width`` cheap and dear ops in turn, a table that all read, lasting gradients."""
    costs: list[float] = []
    sizes: list[int] = []
    reads: list[list[int]] = []

    def op(cost: float, size: int, read: list[int]) -> int:
        costs.append(cost)
        sizes.append(size)
        reads.append(read)
        return len(costs) - 1

    table = op(1, 3, [])
    stream = op(2, 10, [])
    inside: list[list[int]] = []
    for layer in range(count):
        chain = [stream]
        for k in range(width):
            size = 40 if k % 2 else 12 + (layer if unlike else 0)
            chain.append(op(8 if k % 2 else 1, size, [chain[-1], *([table] if k == 1 else [])]))
        inside.append(chain)
        stream = op(1, 10, [stream, chain[-1]])
    loss = op(1, 1, [stream])
    turn = len(costs)
    gradient = op(1, 10, [loss])
    results = []
    for chain in reversed(inside):
        inner = gradient
        for k in range(width, 0, -1):
            results.append(op(6 if k % 2 == 0 else 1, 2, [chain[k - 1], inner]))
            inner = op(6 if k % 2 == 0 else 1, 10, [chain[k], inner, *([table] if k == 2 else [])])
        gradient = op(1, 10, [gradient, inner])
    values = tuple(Value(f"v{i}", i) for i in range(len(costs)))
    ops = tuple(
        Op(f"op{i}", tuple(read), (i,), seconds=cost, phase="forward" if i < turn else "backward")
        for i, (cost, read) in enumerate(zip(costs, reads, strict=True))
    )
    return Graph(ops, values, tuple(map(Storage, sizes)), tuple(results), {"parameters": 17})


def test_identical_layers_are_one_pattern() -> None:
    problem = Problem.of(layers(12))
    for partition in partitions(problem):
        assert [block.end for block in partition.blocks][-1] == turning_point(problem)
        for before, after in itertools.pairwise(partition.blocks):
            assert before.end == after.start
            assert before.opens == after.closes
    finest = partitions(problem)[0]
    keys = [pattern.key for pattern in patterns(problem, finest)]
    assert len(keys) >= 6
    assert len(set(keys)) <= 4


def test_layers_that_differ_are_patterns_of_their_own() -> None:
    problem = Problem.of(layers(6, unlike=True))
    keys = [pattern.key for pattern in patterns(problem, partitions(problem)[0])]
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
@examples(25)
@given(st.integers(2, 5), st.integers(2, 4), st.data())
def test_the_prediction_is_the_simulation(count: int, width: int, data: st.DataObject) -> None:
    """Whatever is kept of the blocks: the bytes each needs, added up, are never below the peak, and the seconds are exact."""
    problem = Problem.of(layers(count, width=width, unlike=data.draw(st.booleans())))
    levels = TwoLevels(problem, Deadline(60.0))
    for chain in levels.chains:
        choice = [data.draw(st.integers(0, len(link.options) - 1)) for link in chain.links]
        simulation = problem.simulate(chain.sequence(choice))
        prefix = np.cumsum([0, *(link.saved[option] for link, option in zip(chain.links, choice, strict=True))])
        predicted = max(
            int(before + link.needed[option]) for before, link, option in zip(prefix, chain.links, choice, strict=False)
        )
        extra = sum(link.seconds[option] for link, option in zip(chain.links, choice, strict=True))
        assert simulation.seconds == pytest.approx(problem.seconds + extra)
        assert simulation.peak_bytes == predicted


@examples(40)
@given(graphs(max_ops=14), st.floats(0.3, 1.0))
def test_any_graph(graph: Graph, share: float) -> None:
    """Views, in-place ops, pinned ops, results, workspace, random state: what is returned runs, and fits if it is said to."""
    peak = simulate(graph, range(len(graph.ops))).peak_bytes
    assume(peak * share >= 1)
    solution = solve(graph, int(peak * share), solver="twolevel", time_limit=10.0)
    if solution.status == "infeasible":
        assert simulate(graph, solution.minimum_steps).peak_bytes == solution.minimum > int(peak * share)
    else:
        run_ = simulate(graph, solution.steps)
        assert run_.peak_bytes <= int(peak * share)
        assert run_.seconds == solution.cost >= graph.seconds - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_close_to_what_is_proven(share: float) -> None:
    graph = layers(10)
    budget = int(share * simulate(graph, range(len(graph.ops))).peak_bytes)
    found = solve(graph, budget, solver="twolevel", time_limit=20.0)
    proven = solve(graph, budget, solver="ilp", time_limit=20.0)
    assert found.cost <= proven.bound + 0.02 * graph.seconds


@pytest.mark.slow
def test_a_front_goes_down_to_nothing_and_no_option_is_beaten() -> None:
    problem = Problem.of(layers(6))
    pattern = max(patterns(problem, partitions(problem)[0]), key=lambda pattern: len(pattern.items))
    options = front(pattern, Deadline(20.0))
    saved = [option.saved for option in options]
    seconds = [option.seconds for option in options]
    assert saved == sorted(set(saved), reverse=True)
    assert seconds == sorted(seconds)
    assert saved[-1] == 0
    everything = option_for(pattern, range(len(pattern.items)))
    assert everything.seconds == 0
    assert options[0].saved <= everything.saved


def test_dominated_pairs_are_dropped() -> None:
    saved = np.array([5, 3, 3, 9, 1])
    seconds = np.array([1.0, 2.0, 1.5, 1.0, 7.0])
    assert undominated(saved, seconds).tolist() == [4, 2, 0]


@pytest.mark.slow
def test_more_budget_is_never_slower() -> None:
    graph = layers(8)
    peak = simulate(graph, range(len(graph.ops))).peak_bytes
    levels = TwoLevels(Problem.of(graph), Deadline(60.0))
    costs = []
    for share in (0.35, 0.4, 0.5, 0.6, 0.8, 1.0):
        simulation = levels.problem.simulate(levels.best(int(share * peak)))
        costs.append(simulation.seconds if simulation.peak_bytes <= share * peak else np.inf)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == graph.seconds


def test_a_step_without_a_backward_is_kept_as_it_is() -> None:
    graph = Graph.from_dag([1, 2, 3], [4, 5, 6], [(0, 1), (1, 2)])
    solution = solve(graph, 100, solver="twolevel")
    assert solution.steps == (0, 1, 2)
    assert "no backward" in solution.note
