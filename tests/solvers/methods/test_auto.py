"""auto: never worse than the others, proven where it can be, honest where nothing fits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from remat_planner.schedules import Graph, simulate
from remat_planner.solvers import Reporter, Solution, available, solve
from remat_planner.solvers.annealing import search as anneal
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.solvers.lazy_moments.test_loop import instance, plain_budgets, training_steps


class Recorder(Reporter):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.costs: list[float] = []
        self.bounds: list[float] = []
        self.ended: Solution | None = None

    def improved(self, cost: float, peak: int) -> None:
        self.costs.append(cost)

    def bound(self, value: float) -> None:
        self.bounds.append(value)

    def finished(self, solution: Solution) -> None:
        self.ended = solution


@pytest.mark.slow
@examples(30)
@given(plain_budgets())
def test_tiny_graphs_are_solved_as_by_exhaustive_search(case: tuple[Graph, int]) -> None:
    graph, budget = case
    assert solve(graph, budget, time_limit=5).cost == pytest.approx(cheapest(Problem.of(graph), budget), rel=1e-9)


@examples(20)
@given(training_steps())
def test_graphs_of_every_kind_and_no_time(graph: Graph) -> None:
    peak = simulate(graph, range(len(graph.ops))).peak_bytes
    for share in (1.0, 0.7):
        budget = max(1, math.floor(share * peak))
        solution = solve(graph, budget, time_limit=0)
        if solution.status != "infeasible":
            assert simulate(graph, solution.steps).peak_bytes <= budget


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.9, 0.6, 0.5])
def test_never_worse_than_any_other(share: float) -> None:
    graph, peak = instance("checkmate_unet")
    budget = math.floor(share * peak)
    best = solve(graph, budget, time_limit=10)
    for name in available():
        if name != "checkmate":  # minutes on this graph
            other = solve(graph, budget, solver=name, time_limit=1)
            assert best.cost <= other.cost * (1 + 1e-9)


@pytest.mark.slow
def test_annealing_is_left_out_where_it_cannot_be_compiled_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a new installation: compiling takes longer than the few seconds that there are."""
    monkeypatch.setattr(anneal.kernel, "ready", lambda: False)
    monkeypatch.setattr(anneal.kernel, "anneal", None)
    graph, peak = instance("checkmate_unet")
    for share in (0.6, 0.1):  # the second is infeasible, and the least budget is looked for
        solution = solve(graph, math.floor(share * peak), time_limit=3)
        assert (solution.status == "infeasible") is (share == 0.1)


@pytest.mark.slow
def test_enough_ends_the_search() -> None:
    """It is known that a schedule takes at most so long, or that none does; nothing more is asked for."""
    graph, peak = instance("checkmate_resnet50")
    budget = math.floor(0.5 * peak)
    best = solve(graph, budget, time_limit=10)
    plenty = solve(graph, budget, time_limit=10, enough=best.cost * 1.01)
    assert best.cost <= plenty.cost <= best.cost * 1.01
    little = solve(graph, budget, time_limit=10, enough=best.cost * 0.999)
    assert little.bound > best.cost * 0.999


@pytest.mark.slow
def test_more_budget_is_never_slower() -> None:
    graph, peak = instance("checkmate_unet")
    costs = [solve(graph, math.floor(share * peak), time_limit=5).cost for share in (0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == graph.seconds


@pytest.mark.slow(on_request=True)
def test_an_infeasible_budget_says_what_would_do() -> None:
    graph, peak = instance("checkmate_unet")
    failed = solve(graph, peak // 4, time_limit=5)
    assert failed.status == "infeasible"
    assert failed.bound == math.inf
    assert failed.bottleneck in graph.by_name
    assert peak // 4 < failed.minimum < peak // 2
    again = solve(graph, failed.minimum, time_limit=5)
    assert again.status != "infeasible"
    assert again.peak_bytes <= failed.minimum


def test_the_reporter_hears_of_better_schedules_and_bounds() -> None:
    graph, peak = instance("checkmate_unet")
    recorder = Recorder()
    solution = solve(graph, peak // 2, time_limit=10, reporter=recorder)
    assert recorder.ended is solution
    assert recorder.costs == sorted(recorder.costs, reverse=True)
    assert recorder.costs[-1] == solution.cost
    assert recorder.bounds == sorted(recorder.bounds)
    assert recorder.bounds[-1] == pytest.approx(solution.bound)
