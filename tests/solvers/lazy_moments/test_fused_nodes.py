"""Fusing what runs again together: fewer columns, the same optimum, bounds that still hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph
from remat_planner.solvers.lazy_moments.fused_nodes import followers, last_of
from remat_planner.solvers.lazy_moments.master_program import MasterProgram
from remat_planner.solvers.lazy_moments.options import ProgramOptions
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.solvers.helpers import baseline_peak, training_steps


@st.composite
def narrowing_chains(draw: st.DrawFn) -> tuple[Graph, int]:
    """A chain with values that shrink and one reader for many of them, a backward that reads some, and a budget."""
    n = draw(st.integers(4, 6))
    sizes = [draw(st.integers(1, 6)) for _ in range(2 * n)]
    edges = {(v - 1, v) for v in range(1, 2 * n)}
    edges |= {(v, 2 * n - 1 - v) for v in range(n) if draw(st.booleans())}
    edges |= {(draw(st.integers(0, v - 1)), v) for v in range(1, n) if draw(st.integers(0, 3)) == 0}
    graph = Graph.from_dag([draw(st.integers(1, 9)) for _ in sizes], sizes, sorted(edges), backward=n)
    peak = baseline_peak(graph)
    return graph, draw(st.integers(peak // 2, peak))


def optimum(problem: Problem, budget: int, moments: list[int], *, fuse: bool) -> tuple[float, int]:
    master = MasterProgram(problem, budget, moments, options=ProgramOptions(fuse_nodes=fuse))
    return master.solve(seconds=20, gap=0.0).objective, master.program.columns


@pytest.mark.slow
@examples(150)
@given(narrowing_chains(), st.data())
def test_the_optimum_stays_a_bound_and_loses_nothing(case: tuple[Graph, int], data: st.DataObject) -> None:
    graph, budget = case
    problem = Problem.of(graph)
    moments = sorted(data.draw(st.sets(st.integers(0, problem.n - 1), min_size=1, max_size=3)))
    fused, columns = optimum(problem, budget, moments, fuse=True)
    apart, more = optimum(problem, budget, moments, fuse=False)
    assert columns <= more
    assert fused >= apart - 1e-6
    assert problem.seconds + fused <= cheapest(problem, budget) + 1e-6 * problem.seconds


@examples(150)
@given(training_steps())
def test_only_what_may_run_again_and_is_read_once_is_fused(graph: Graph) -> None:
    problem = Problem.of(graph)
    for node, reader in followers(problem).items():
        (item,) = problem.writes[node]
        assert problem.readers[item] == (reader,)
        assert problem.reads[reader] == (item,)
        assert not problem.pinned[[node, reader]].any()
        assert problem.bytes[list(problem.writes[reader])].sum() <= problem.bytes[item]


def test_a_run_ends_where_the_window_does() -> None:
    graph = Graph.from_dag([1, 1, 1, 1, 1], [1, 4, 3, 2, 1], [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)], backward=4)
    following = followers(Problem.of(graph))
    assert following == {1: 2, 2: 3}
    assert [last_of(following, 1, until) for until in (1, 2, 3, 4)] == [1, 2, 3, 3]


def test_there_are_fewer_columns_and_the_optimum_is_the_same() -> None:
    # Six layers, each with a run of three that narrows (8, 6, 4 bytes) and is read by the layer's backward.
    layers, costs, sizes, edges = 6, [1.0], [4], []
    for k in range(layers):
        before = 4 * k
        edges += [
            (before, before + 1),
            (before + 1, before + 2),
            (before + 2, before + 3),
            (before, before + 4),
            (before + 3, before + 4),
        ]
        costs += [1.0, 1.0, 1.0, 5.0 + k]
        sizes += [8, 6, 4, 4]
    forward = len(costs)
    for k in reversed(range(layers)):
        node = len(costs)
        edges += [(node - 1, node), (4 * k + 3, node), (4 * k, node)]
        costs.append(1.0)
        sizes.append(4)
    graph = Graph.from_dag(costs, sizes, edges, backward=forward)
    problem = Problem.of(graph)
    assert len(followers(problem)) == 2 * layers
    budget, moments = round(0.7 * baseline_peak(graph)), [forward, forward + 3]
    fused, columns = optimum(problem, budget, moments, fuse=True)
    apart, more = optimum(problem, budget, moments, fuse=False)
    assert columns < more
    assert 0 < fused == pytest.approx(apart, rel=1e-6)
