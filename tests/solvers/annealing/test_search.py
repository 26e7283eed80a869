"""Annealing: its bookkeeping is the simulator's, its schedules run within the budget, it finds what is known to be there."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph, Op, Storage, Value, simulate
from remat_planner.solvers import solve
from remat_planner.solvers.annealing import kernel
from remat_planner.solvers.annealing.search import DEFAULT_OPTIONS, anneal
from remat_planner.solvers.annealing.starting_state import starting_state, wiring_of
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.instances import instance_path
from tests.sampling import examples
from tests.strategies import graphs


def start_of(problem: Problem, wiring: kernel.Wiring, *, budget: int, seed: int) -> kernel.SequenceState:
    """The state for a run without recomputation."""
    return starting_state(problem, wiring, range(problem.n), budget, seed=seed, most_runs=DEFAULT_OPTIONS.most_runs)


def instance(name: str, share: float) -> tuple[Graph, int]:
    data = json.loads(instance_path(name).read_text())
    nodes = data["nodes"]
    graph = Graph.from_dag([v["cost"] for v in nodes], [v["mem"] for v in nodes], data["edges"], [v["bwd"] for v in nodes])
    return graph, math.ceil(share * data["peak_no_remat"])


def loosened(graph: Graph, draw: st.DataObject) -> Graph:
    """The same graph with forward ops that may run late, and with a loss that nothing may interrupt."""
    forward = [i for i, op in enumerate(graph.ops) if op.phase == "forward"]
    late = draw.draw(st.sets(st.sampled_from(forward))) if forward else set()
    first = draw.draw(st.integers(0, len(graph.ops)))
    last = draw.draw(st.integers(0, len(graph.ops)))
    in_turn = draw.draw(st.sets(st.integers(0, len(graph.ops))))
    ops = []
    for i, op in enumerate(graph.ops):
        outside = first <= i < last and i not in late and op.pinned is None
        ops.append(
            Op(
                op.name,
                op.reads,
                op.writes,
                seconds=op.seconds,
                workspace=op.workspace,
                phase=op.phase,
                pinned=op.pinned,
                replay_bytes=op.replay_bytes,
                auxiliary=i in late and op.pinned is None,
                in_turn=i in in_turn,
                outside=outside,
            )
        )
    return Graph(tuple(ops), graph.values, graph.storages, graph.results, graph.constants)


@pytest.mark.slow
@examples(60)
@given(graphs(max_ops=14), st.data())
def test_the_kernel_counts_as_the_simulator_does(graph: Graph, data: st.DataObject) -> None:
    problem = Problem.of(loosened(graph, data))
    if problem.n < 2:
        return
    peak = problem.simulate(range(problem.n)).peak_bytes - problem.constant_bytes
    limit, seed = data.draw(st.integers(0, max(peak, 1))), data.draw(st.integers(0, 99))
    counts_as_the_simulator_does(problem, limit=limit, seed=seed, any_order=data.draw(st.booleans()))


def test_a_result_written_in_place_makes_its_memory_last() -> None:
    # "c" runs again after the last reader of the memory that "b" wrote in place, which is alive there as a result.
    values = tuple(Value(name, storage) for name, storage in (("a", 0), ("b", 0), ("x", 1), ("c", 2), ("d", 3)))
    ops = (
        Op("a", (), (0,), seconds=0.0),
        Op("b", (0,), (1,), seconds=3.0),
        Op("x", (), (2,), seconds=3.0, replay_bytes=2),
        Op("c", (1, 2), (3,), seconds=2.0, workspace=3),
        Op("d", (3,), (4,), seconds=4.0, phase="backward"),
    )
    graph = Graph(ops, values, tuple(map(Storage, (7, 3, 5, 3))), results=(1,))
    for seed in range(20):
        counts_as_the_simulator_does(Problem.of(graph), limit=7, seed=seed)


def counts_as_the_simulator_does(problem: Problem, *, limit: int, seed: int, any_order: bool = False) -> None:
    wiring = wiring_of(problem, any_order=any_order)
    mix = kernel.DEFAULT_MIX._replace(firsts=0.5 if any_order else 0.0)
    state = start_of(problem, wiring, budget=limit + problem.constant_bytes, seed=seed)
    for temperature in (1.0, 0.3, 0.02, 0.3):
        kernel.anneal(wiring, state, mix, 60, temperature, temperature, 1.03, limit)
        slots = np.flatnonzero(state.held[: state.counters[kernel.SLOTS]] >= 0)
        nodes = state.run[state.held[slots], kernel.NODE].tolist()
        simulated = problem.simulate(nodes).bytes - problem.constant_bytes
        assert state.live[slots].tolist() == simulated.tolist()
        assert state.counters[kernel.OVER] == np.maximum(simulated - limit, 0).sum()
        assert state.measures[kernel.COST] == pytest.approx(wiring.cost[nodes].sum() - wiring.cost.sum())
        steps = problem.expand(nodes)
        assert simulate(problem.graph, steps).seconds == pytest.approx(problem.simulate(nodes).seconds)
        first = {v: k for k, v in reversed(list(enumerate(nodes)))}
        assert any_order or problem.keeps_order(steps)
        kept = [first[v] for v in range(problem.n) if problem.in_turn[v] and not problem.auxiliary[v]]
        assert kept == sorted(kept)
        outside = [k for k, v in enumerate(nodes) if problem.outside[v]]
        if outside:
            between = nodes[outside[0] : outside[-1] + 1]
            assert between == sorted(set(between))


@pytest.mark.parametrize(
    ("name", "share", "overhead"),
    [
        ("rlg1_n100", 0.9, 0.7893),
        ("rlg1_n100", 0.8, 2.2965),
        ("rlg2_n250", 0.9, 0.904),
        ("rlg2_n250", 0.8, 4.261),
        ("checkmate_unet", 0.5, 6.967),
        ("checkmate_unet", 0.45, 9.322),
    ],
)
def test_the_hard_graphs(name: str, share: float, overhead: float) -> None:
    graph, budget = instance(name, share)
    problem = Problem.of(graph)
    # A fixed number of moves, whatever the machine: the deadline is far off and the target ends the search.
    found = anneal(problem, budget, Deadline(60.0), target=graph.seconds * (1 + overhead / 100))
    run = simulate(graph, problem.expand(found.nodes))
    assert found.fits
    assert run.peak_bytes <= budget
    assert run.seconds == pytest.approx(found.cost)
    assert 100 * (run.seconds / graph.seconds - 1) <= overhead


@pytest.mark.slow
def test_the_same_question_has_the_same_answer() -> None:
    graph, budget = instance("rlg1_n100", 0.8)
    answers = [solve(graph, budget, solver="anneal", time_limit=1.0).cost for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_a_start_is_never_made_worse() -> None:
    graph, budget = instance("checkmate_unet", 0.5)
    good = solve(graph, budget, solver="anneal", time_limit=2.0)
    again = solve(graph, budget, solver="anneal", time_limit=0.0, start=(good.steps,))
    assert again.cost == good.cost


@pytest.mark.slow
def test_where_nothing_fits_the_lowest_peak_is_told() -> None:
    graph, _ = instance("rlg1_n100", 0.5)
    solution = solve(graph, 20_000, solver="anneal", time_limit=0.5)
    assert solution.status == "infeasible"
    assert solution.minimum < simulate(graph, range(len(graph.ops))).peak_bytes


def test_nothing_to_do_where_everything_fits() -> None:
    graph = Graph.from_dag([1, 2, 3], [4, 5, 6], [(0, 1), (1, 2), (0, 2)])
    solution = solve(graph, 100, solver="anneal", time_limit=5.0)
    assert solution.steps == (0, 1, 2)
    assert solution.status == "optimal"


def test_an_auxiliary_op_runs_late_for_nothing() -> None:
    # The large result of "aux" is needed at the end only: running it there costs no time and saves its bytes in between.
    values = tuple(Value(name, i) for i, name in enumerate(("a", "aux", "b", "c", "d")))
    storages = tuple(map(Storage, (1, 50, 40, 40, 1)))
    ops = (
        Op("a", (), (0,), seconds=1.0),
        Op("aux", (0,), (1,), seconds=1.0, auxiliary=True),
        Op("b", (0,), (2,), seconds=1.0),
        Op("c", (2,), (3,), seconds=1.0),
        Op("d", (1, 3), (4,), seconds=1.0, phase="backward"),
    )
    graph = Graph(ops, values, storages)
    solution = solve(graph, 95, solver="anneal", time_limit=1.0)
    assert solution.cost == graph.seconds
    assert solution.steps == (0, 2, 3, 1, 4)


def test_nodes_are_what_steps_were_made_of() -> None:
    graph, _ = instance("rlg1_n100", 0.9)
    problem = Problem.of(graph)
    assert problem.nodes_of(problem.expand([0, 1, 0, *range(2, problem.n)])) == [0, 1, 0, *range(2, problem.n)]


@pytest.mark.slow
def test_without_time_to_compile_the_start_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, budget = instance("checkmate_unet", 0.5)
    good = solve(graph, budget, solver="anneal", time_limit=2.0)
    monkeypatch.setattr(kernel, "ready", lambda: False)
    again = solve(graph, budget, solver="anneal", time_limit=2.0, start=(good.steps,))
    assert again.steps == good.steps
    assert "compiling" in again.note
