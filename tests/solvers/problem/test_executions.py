"""Leaving out recomputations: what memory becomes is what a simulation says, and nothing needless stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph, InvalidScheduleError, Simulation, simulate
from remat_planner.solvers.problem import Executions, Problem
from tests.sampling import examples
from tests.solvers.problem.test_reduced_graph import graphs, some_nodes


def _without(nodes: list[int], place: int) -> list[int]:
    return [*nodes[:place], *nodes[place + 1 :]]


def _recomputed(nodes: list[int]) -> list[int]:
    return [place for place, node in enumerate(nodes) if node in nodes[:place]]


def _shares_memory(problem: Problem, node: int) -> bool:
    shared = {item for item, base in enumerate(problem.base.tolist()) if item != base}
    shared |= {int(problem.base[item]) for item in shared}
    return not shared.isdisjoint(problem.writes[node])


def _run(problem: Problem, nodes: list[int]) -> Simulation | None:
    try:
        return problem.simulate(nodes)
    except InvalidScheduleError:
        return None


@given(graphs(), st.data())
@examples(150)
def test_the_peak_stays_within_the_budget(graph: Graph, choose: st.DataObject) -> None:
    problem = Problem.of(graph)
    nodes = some_nodes(problem, choose)
    run = _run(problem, nodes)
    if run is None:  # a stale in-place result behind a pinned op
        return
    budget = run.peak_bytes + choose.draw(st.integers(0, 10))
    executions = Executions(problem, nodes, run)
    for place in executions.recomputations():
        executions.leave_out(place, budget)
        now = executions.nodes
        assert problem.simulate(now).peak_bytes <= budget
        assert simulate(graph, problem.expand(now)).peak_bytes <= budget


@given(graphs(), st.data())
@examples(150)
def test_no_recomputation_stays_that_could_go_alone(graph: Graph, choose: st.DataObject) -> None:
    problem = Problem.of(graph)
    nodes = some_nodes(problem, choose)
    run = _run(problem, nodes)
    if run is None:  # a stale in-place result behind a pinned op
        return
    budget = run.peak_bytes
    executions = Executions(problem, nodes, run)
    before = None
    while before != (before := executions.nodes):
        for place in executions.recomputations():
            executions.leave_out(place, budget)
    left = executions.nodes
    for place in _recomputed(left):
        if not _shares_memory(problem, left[place]):
            shorter = _run(problem, _without(left, place))
            assert shorter is None or shorter.peak_bytes > budget


def test_what_was_made_only_for_it_goes_too() -> None:
    #  0 -> 1 -> 2, and 3 reads 1: with 1 recomputed from 0 recomputed, both go
    graph = Graph.from_dag([1.0] * 4, [4, 4, 4, 4], [(0, 1), (1, 2), (2, 3), (1, 3)], [False, False, False, True])
    problem = Problem.of(graph)
    nodes = [0, 1, 2, 0, 1, 3]
    executions = Executions(problem, nodes, problem.simulate(nodes))
    executions.leave_out(4, problem.simulate([0, 1, 2, 3]).peak_bytes)
    assert executions.nodes == [0, 1, 2, 3]


def test_it_stays_where_memory_is_short() -> None:
    graph = Graph.from_dag([1.0] * 4, [4, 4, 9, 1], [(0, 1), (1, 2), (2, 3), (0, 3)], [False, False, False, True])
    problem = Problem.of(graph)
    nodes = [0, 1, 2, 0, 3]
    executions = Executions(problem, nodes, problem.simulate(nodes))
    peak = problem.simulate([0, 1, 2, 3]).peak_bytes
    executions.leave_out(3, peak - 1)
    assert executions.nodes == nodes
    executions.leave_out(3, peak)
    assert executions.nodes == [0, 1, 2, 3]
