"""Lazy moments against exhaustive search, the field's own graphs, and what is known about them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph, simulate
from remat_planner.solvers import solve
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.lazy_moments.loop import LazyMoments
from remat_planner.solvers.lazy_moments.master_program import MasterProgram
from remat_planner.solvers.lazy_moments.options import LazyMomentsOptions
from remat_planner.solvers.lazy_moments.simulated_sequence import SimulatedSequence
from remat_planner.solvers.milp.highs import Watch
from remat_planner.solvers.milp.program import Outcome
from remat_planner.solvers.problem.least_peak import least_peak
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.instances import instance_path
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.strategies import graphs


def instance(name: str) -> tuple[Graph, int]:
    """A graph of the field, and its peak without recomputation."""
    data = json.loads(instance_path(name).read_text())
    nodes = data["nodes"]
    graph = Graph.from_dag([v["cost"] for v in nodes], [v["mem"] for v in nodes], data["edges"], [v["bwd"] for v in nodes])
    return graph, data["peak_no_remat"]


@st.composite
def training_steps(draw: st.DrawFn, max_ops: int = 7) -> Graph:
    """Random graphs of every kind, with auxiliary ops."""
    graph = draw(graphs(max_ops=max_ops))
    late = draw(st.sets(st.integers(0, len(graph.ops) - 1), max_size=2))
    ops = tuple(replace(op, auxiliary=True) if i in late and op.phase == "forward" else op for i, op in enumerate(graph.ops))
    return replace(graph, ops=ops)


def budgets(graph: Graph) -> list[int]:
    peak = simulate(graph, range(len(graph.ops))).peak_bytes
    return [round(share * peak) for share in (1.0, 0.9, 0.75, 0.6, 0.45)]


@pytest.mark.slow
@examples(150)
@given(training_steps(), st.integers(0, 4))
def test_the_bound_holds_and_is_met(graph: Graph, which: int) -> None:
    problem = Problem.of(graph)
    budget = budgets(graph)[which]
    best = cheapest(problem, budget)
    method = LazyMoments(problem, budget)
    method.work(Deadline(20))
    assert method.bound <= best + 1e-6 * problem.seconds
    if method.best is not None:
        assert method.best.simulation.peak_bytes <= budget
        assert method.best.simulation.seconds >= best - 1e-9


@st.composite
def plain_budgets(draw: st.DrawFn) -> tuple[Graph, int]:
    """Small training graphs of plain ops, and a budget between what an op needs and what the step takes."""
    n = draw(st.integers(5, 10))
    start = draw(st.integers(n // 2, n))
    costs = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    sizes = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    edges = set()
    for v in range(1, n):
        back = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, 5]), min_size=1, max_size=3))
        edges.update((max(0, v - step), v) for step in back)
        if v >= start:
            edges.add((max(0, min(v - 1, 2 * start - v)), v))
    graph = Graph.from_dag(costs, sizes, sorted(edges), start)
    least, peak = least_peak(graph)[0], simulate(graph, range(n)).peak_bytes
    return graph, draw(st.integers(min(least, peak), peak))


@pytest.mark.slow
@examples(150)
@given(plain_budgets())
def test_tiny_graphs_are_solved_as_by_exhaustive_search(case: tuple[Graph, int]) -> None:
    graph, budget = case
    best = cheapest(Problem.of(graph), budget)
    solution = solve(graph, budget, solver="ilp", time_limit=20)
    assert solution.cost == pytest.approx(best, rel=1e-9)
    assert solution.bound == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "share", "overhead"),
    [
        ("checkmate_fcn8", 0.9, 0.0294),
        ("checkmate_fcn8", 0.8, 0.1362),
        ("checkmate_resnet50", 0.9, 0.1085),
        ("checkmate_resnet50", 0.8, 0.2786),
        ("checkmate_resnet50", 0.5, 1.4988),
        ("checkmate_unet", 0.5, 6.967),
        ("checkmate_unet", 0.45, 9.322),
        ("rlg1_n100", 0.9, 0.7892),
        ("rlg1_n100", 0.8, 2.2965),
    ],
)
def test_the_published_graphs_are_solved_with_proof(name: str, share: float, overhead: float) -> None:
    graph, peak = instance(name)
    solution = solve(graph, math.floor(share * peak), solver="ilp", time_limit=60)
    assert solution.status == "optimal"
    assert 100 * (solution.cost / graph.seconds - 1) <= overhead + 1e-4


@pytest.mark.parametrize("name", ["checkmate_vgg16", "checkmate_unet"])
def test_the_optima_of_the_full_program_are_met(name: str) -> None:
    graph, _ = instance(name)
    data = json.loads(instance_path(name).read_text())
    for reference in data["references"]:
        if reference.get("mode") == "mip" and reference["status"] == "Optimal":
            solution = solve(graph, reference["budget"], solver="ilp", time_limit=60)
            assert solution.status == "optimal"
            assert solution.cost == pytest.approx(reference["obj"], rel=1e-4)


@pytest.mark.slow
def test_a_program_outlasts_its_share_where_a_good_schedule_is_found_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, peak = instance("rlg1_n100")
    problem, budget = Problem.of(graph), round(0.9 * peak)
    best = problem.nodes_of(solve(graph, budget, solver="ilp", time_limit=60).steps)
    found: list[SimulatedSequence] = []
    no_time = LazyMomentsOptions(step_share=0.0, least_step=0.0)
    method = LazyMoments(problem, budget, found_elsewhere=lambda: found, options=no_time)
    method.step(Deadline(60))
    ended = []

    def program(master: MasterProgram, *, watch: Watch, **_: object) -> Outcome:
        ended.append(watch(-math.inf))
        found.append(SimulatedSequence(best, problem.simulate(best)))
        ended.append(watch(-math.inf))
        return Outcome("unknown", math.inf, -math.inf, None, None)

    monkeypatch.setattr(MasterProgram, "solve", program)
    method.step(Deadline(60))
    assert ended == [True, False]
