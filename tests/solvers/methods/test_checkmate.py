"""The full program against exhaustive search, and on the graphs of its own paper."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph, Op, Storage, Value
from remat_planner.solvers import solve
from remat_planner.solvers.methods.checkmate import Checkmate
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.solvers.helpers import baseline_peak, instance, networks, training_steps


@examples(60)
@given(st.one_of(training_steps(max_ops=7), networks(max_stages=3)), st.sampled_from([0.95, 0.85, 0.75, 0.65, 0.5]))
def test_equals_exhaustive_search(graph: Graph, share: float) -> None:
    budget = max(1, graph.constant_bytes, round(share * baseline_peak(graph)))
    solution = solve(graph, budget, solver=Checkmate(passes=3), time_limit=60)
    best = cheapest(Problem.of(graph), budget)
    assert solution.bound <= best + 1e-6 * max(1.0, graph.seconds)
    if best < math.inf:
        assert solution.cost == pytest.approx(best, abs=1e-9)
    else:
        assert solution.status == "infeasible"


@pytest.mark.parametrize("pinned", ["a reason", None])
def test_a_draw_that_may_wait_holds_no_state_until_then(pinned: str | None) -> None:
    draw = Op("draw", (), (1,), 1.0, pinned=pinned, auxiliary=True, replay_bytes=2)
    large, last = Op("large", (), (2,), 1.0, phase="backward"), Op("last", (1,), (), 1.0, phase="backward")
    storages = (Storage(0, constant=True), Storage(1), Storage(3))
    graph = Graph((draw, large, last), tuple(Value(f"v{i}", i) for i in range(3)), storages)
    solution = solve(graph, 3, solver="checkmate", time_limit=60)
    assert (solution.status, solution.cost, solution.steps) == ("optimal", 3.0, (1, 0, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share", "cost"),
    [("checkmate_vgg16", 0.95, 15620), ("checkmate_vgg16", 0.9, 15805), ("checkmate_unet", 0.8, 31620)],
)
def test_checkmate_on_its_own_graphs(name: str, share: float, cost: int) -> None:
    graph, peak = instance(name)
    solution = solve(graph, math.ceil(share * peak), solver="checkmate")
    assert (solution.cost, solution.status) == (cost, "optimal")


@pytest.mark.slow
def test_checkmate_refuses_what_is_too_large() -> None:
    graph, peak = instance("checkmate_resnet50")
    assert "too many" in solve(graph, peak // 2, solver="checkmate").note
