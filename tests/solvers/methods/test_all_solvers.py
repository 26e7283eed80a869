"""What holds for every solver: its answer runs, keeps to the budget, claims nothing that is not so, is the same every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remat_planner.schedules import Graph, GraphError, simulate
from remat_planner.solvers import Reporter, Solution, SolverMissingError, UnknownSolverError, available, curve, registry, solve
from remat_planner.solvers.interface import ORDER_GIVEN_FORWARD
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.schedules.test_simulate import reference
from tests.solvers.exhaustive import cheapest
from tests.solvers.helpers import ANYTIME, SOLVERS, baseline_peak, instance, networks, training_steps

INSTALLED = [name for name in SOLVERS if name in registry.names()]
SHARES = st.sampled_from([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])


def examples(name: str) -> Any:
    """Fewer examples for those that take their time."""
    return settings(max_examples=8 if name in ANYTIME else 20 if name in ("ilp", "checkmate") else 80, deadline=None)


def check(graph: Graph, budget: int, solution: Solution) -> None:
    """Everything that a solution says of itself, by a simulator that is not the solvers'."""
    if solution.status == "infeasible":
        assert solution.steps == ()
        assert solution.cost == solution.gap == math.inf
        assert budget < solution.minimum == max(reference(graph, list(solution.minimum_steps))[1], default=0)
        assert solution.bottleneck in graph.by_name
        return
    seconds, memory = reference(graph, list(solution.steps))
    assert solution.cost == pytest.approx(seconds)
    assert solution.peak_bytes == max(memory) <= budget
    assert solution.bound <= solution.cost
    assert solution.bound >= graph.seconds or solution.bound == pytest.approx(graph.seconds)
    if graph.seconds:
        assert solution.gap == pytest.approx((solution.cost - solution.bound) / graph.seconds)
    assert (solution.status == "optimal") == (solution.cost - solution.bound <= 1e-6 * solution.cost)
    assert solution.bottleneck is None
    loss = [place for place, i in enumerate(solution.steps) if graph.ops[i].outside]
    assert loss == list(range(loss[0], loss[0] + len(loss))) if loss else True
    assert solution.minimum <= solution.peak_bytes


def test_the_list_is_complete() -> None:
    assert set(SOLVERS) == set(registry.names())


def each_solver(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("name", INSTALLED)(test)


@each_solver
def test_answers_are_true_on_graphs_of_every_kind(name: str) -> None:
    @examples(name)
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


@each_solver
def test_answers_are_true_on_networks(name: str) -> None:
    @examples(name)
    @given(networks(), SHARES)
    def holds(graph: Graph, share: float) -> None:
        budget = max(1, round(share * baseline_peak(graph)))
        check(graph, budget, solve(graph, budget, solver=name, time_limit=SOLVERS[name]))

    holds()


@pytest.mark.parametrize("name", [name for name in INSTALLED if name not in ANYTIME])
def test_the_same_question_has_the_same_answer(name: str) -> None:
    @examples(name)
    @given(networks(max_stages=5), SHARES)
    def holds(graph: Graph, share: float) -> None:
        budget = max(1, round(share * baseline_peak(graph)))
        first, second = (solve(graph, budget, solver=name, time_limit=60) for _ in range(2))
        assert (first.steps, first.bound, first.minimum) == (second.steps, second.bound, second.minimum)

    holds()


@pytest.mark.parametrize("name", ["ilp", "checkmate"])
def test_more_budget_is_never_slower(name: str) -> None:
    @settings(max_examples=10, deadline=None)
    @given(networks(max_stages=4))
    def holds(graph: Graph) -> None:
        peak = baseline_peak(graph)
        answers = [solve(graph, round(peak * share / 10), solver=name, time_limit=60) for share in range(3, 11)]
        proven = [answer.cost for answer in answers if answer.status == "optimal"]
        assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(proven))

    holds()


@pytest.mark.parametrize("name", [name for name in INSTALLED if name not in ("ilp", "checkmate", *ANYTIME)])
def test_the_minimum_of_an_infeasible_answer_works(name: str) -> None:
    @settings(max_examples=60, deadline=None)
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


@pytest.mark.parametrize("name", ["none", "chen", "revolve", "rotor", "greedy", "ilp"])
def test_a_curve_never_rises_with_memory(name: str) -> None:
    @settings(max_examples=15, deadline=None)
    @given(networks(max_stages=5))
    def holds(graph: Graph) -> None:
        peak = baseline_peak(graph)
        budgets = [peak * tenths // 10 for tenths in (9, 4, 10, 5, 7, 6, 7)]
        solutions = curve(graph, budgets, solver=name, time_limit=60)
        for budget, solution in zip(budgets, solutions, strict=True):
            check(graph, budget, solution)
        ordered = [solution for _, solution in sorted(zip(budgets, solutions, strict=True), key=lambda pair: pair[0])]
        assert all(later.cost <= earlier.cost for earlier, later in pairwise(ordered))
        assert all(later.bound <= earlier.bound for earlier, later in pairwise(ordered) if later.status != "infeasible")

    holds()


def test_a_curve_of_no_budgets() -> None:
    assert curve(Graph.from_dag([1], [1], []), []) == []


def test_the_page_on_solvers_has_a_line_for_each() -> None:
    page = (Path(__file__).parents[3] / "docs" / "solvers.md").read_text()
    assert [name for name in registry.names() if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("budget", [math.nan, math.inf, -1, 0, 0.5, True, "40GB", None])
def test_a_budget_that_is_no_number_of_bytes(budget: Any) -> None:
    with pytest.raises(ValueError, match="budget is"):
        solve(Graph.from_dag([1], [1], []), budget, solver="none")


def test_a_whole_float_is_a_number_of_bytes() -> None:
    assert solve(Graph.from_dag([1], [1], []), 1.0, solver="none").status == "optimal"


@pytest.mark.parametrize("time_limit", [math.nan, -1, "long", True])
def test_a_time_limit_that_is_no_time(time_limit: Any) -> None:
    with pytest.raises(ValueError, match="time limit is"):
        solve(Graph.from_dag([1], [1], []), 1, time_limit=time_limit)


@pytest.mark.parametrize(
    ("costs", "sizes", "edges"),
    [
        ([1, 1], [1, 1], [(1, 0)]),
        ([1, 1], [1, 1], [(0, 0)]),
        ([1, 1], [1, 1], [(0, 2)]),
        ([1, -1], [1, 1], []),
        ([1, math.nan], [1, 1], []),
        ([1, 1], [1, -1], []),
        ([1, 1], [1, math.nan], []),
    ],
)
def test_graphs_that_are_none(costs: list[float], sizes: list[int], edges: list[tuple[int, int]]) -> None:
    with pytest.raises(GraphError):
        Graph.from_dag(costs, sizes, edges)


def test_an_unknown_solver_is_told_the_names() -> None:
    with pytest.raises(UnknownSolverError, match=r"'gurobi'.*rotor") as error:
        solve(Graph.from_dag([1], [1], []), 1, solver="gurobi")
    assert error.value.names == registry.names()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named 'highspy' in {module}", name="highspy._core")

    registry.get.cache_clear()
    monkeypatch.setattr(registry, "import_module", missing)
    try:
        with pytest.raises(SolverMissingError, match="pip install highspy") as error:
            solve(Graph.from_dag([1], [1], []), 1, solver="ilp")
        assert error.value.library == "highspy"
        assert available() == {}
    finally:
        monkeypatch.undo()
        registry.get.cache_clear()


def test_a_fault_of_our_own_is_not_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(module, name="remat_planner.nowhere")

    registry.get.cache_clear()
    monkeypatch.setattr(registry, "import_module", missing)
    try:
        with pytest.raises(ModuleNotFoundError, match="solvers"):
            registry.get("none")
    finally:
        monkeypatch.undo()
        registry.get.cache_clear()


def test_available_describes() -> None:
    assert set(available()) <= set(registry.names())
    assert all(description and "\n" not in description for description in available().values())


def test_the_reporter_hears_of_progress() -> None:
    heard: list[str] = []

    class Listener(Reporter):
        def started(self, solver: str, graph: Graph, budget: int) -> None:
            heard.append(f"started {solver} {len(graph.ops)} {budget}")

        def improved(self, cost: float, peak: int) -> None:
            heard.append(f"improved {cost} {peak}")

        def finished(self, solution: Solution) -> None:
            heard.append(f"finished {solution.status}")

    graph = Graph.from_dag([1, 1, 1, 1], [1, 1, 1, 1], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    solve(graph, 3, solver="chen", reporter=Listener())
    assert heard == ["started chen 4 3", "improved 4.0 3", "finished optimal"]


def test_a_start_that_is_better_is_the_answer() -> None:
    graph = Graph.from_dag([1, 1, 1, 1], [1, 1, 1, 1], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    peak = simulate(graph, [0, 1, 0, 2, 3]).peak_bytes
    solution = solve(graph, peak, solver="none", start=((0, 1, 0, 2, 3),))
    assert solution.cost == 4.0  # the execution order itself fits, and costs less
