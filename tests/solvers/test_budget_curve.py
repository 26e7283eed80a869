"""Curves of seconds against memory: schedules are carried to larger budgets, bounds to smaller ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from remat_planner.schedules import Graph
from remat_planner.solvers import Solution, curve, solve
from remat_planner.solvers.methods.chen import Chen
from tests.sampling import examples
from tests.solvers.helpers import baseline_peak, check, networks


@pytest.mark.parametrize("name", ["none", "chen", "revolve", "rotor", "greedy", "ilp"])
def test_a_curve_never_rises_with_memory(name: str) -> None:
    @examples(15)
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


def test_a_curve_by_a_solver_of_ones_own() -> None:
    class Own(Chen):
        name = "own"

    graph = Graph.from_dag([1, 1, 1, 1], [1, 1, 1, 1], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    assert [solution.solver for solution in curve(graph, [4, 3], solver=Own())] == ["own", "own"]


def test_a_curve_by_another_way_to_solve() -> None:
    graph = Graph.from_dag([1, 1, 1, 1], [1, 1, 1, 1], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    asked = []

    def solve_one(budget: int, seconds: float, start: tuple[tuple[int, ...], ...]) -> Solution:
        asked.append((budget, start))
        return solve(graph, budget - 1, solver="chen", time_limit=seconds, start=start)

    tighter = curve(graph, [5, 4], start=((0, 1, 2, 3),), solve_one=solve_one)
    assert [budget for budget, _ in asked] == [4, 5]
    assert [s.cost for s in tighter] == [s.cost for s in curve(graph, [4, 3], solver="chen")]
    assert asked[0][1] == ((0, 1, 2, 3),)
    assert asked[1][1] == ((0, 1, 2, 3), tighter[1].steps or tighter[1].minimum_steps)
