"""First executions that may move: what that saves, and what keeps its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from remat_planner.schedules import Graph
from remat_planner.solvers import OrderError, solve
from remat_planner.solvers.interface import ANY_SCHEDULE, ORDER_GIVEN
from remat_planner.solvers.problem import Problem

BRANCHES, LARGE = 5, 10


def branches(*, in_turn: bool = False) -> Graph:
    """Large values, computed one after the other; each is then read once, for a small one; and the sum of those."""
    n = BRANCHES
    edges = [(i, n + i) for i in range(n)] + [(n + i, 2 * n) for i in range(n)]
    graph = Graph.from_dag([4.0] * n + [1.0] * n + [1.0], [LARGE] * n + [1] * n + [1], edges)
    return replace(
        graph, ops=tuple(replace(op, in_turn=in_turn and i in (0, 2)) for i, op in enumerate(graph.ops)), results=(n,)
    )


@pytest.mark.parametrize("solver", ["anneal", "auto"])
def test_branches_run_one_after_the_other(solver: str) -> None:
    graph, budget = branches(), LARGE + 2 * BRANCHES
    given = solve(graph, budget, solver=solver, time_limit=1)
    assert given.cost > graph.seconds
    found = solve(graph, budget, solver=solver, time_limit=1, order="any")
    assert (found.cost, found.status, found.assumption) == (graph.seconds, "optimal", ANY_SCHEDULE)
    assert not Problem.of(graph).keeps_order(found.steps)


def test_a_bound_for_the_given_order_is_told_as_that() -> None:
    found = solve(branches(), LARGE + 1, solver="auto", time_limit=1, order="any")
    assert (found.status, found.assumption, found.minimum) == ("infeasible", ORDER_GIVEN, LARGE + BRANCHES)


def test_a_schedule_that_beats_the_bound_of_the_given_order_is_told_with_one_of_every_order() -> None:
    n = BRANCHES
    chained = [(i, i + 1) for i in range(2 * n + 1, 4 * n)]  # behind the sum a chain, and its way back
    back = [(2 * n + 1 + i, 4 * n - i) for i in range(n - 1)]
    first = branches()
    edges = [(i, n + i) for i in range(n)] + [(n + i, 2 * n) for i in range(n)] + [(2 * n, 2 * n + 1), *chained, *back]
    graph = Graph.from_dag(
        [*(op.seconds for op in first.ops), *[1.0] * 2 * n], [*[LARGE] * n, *[1] * (n + 1), *[4] * 2 * n], edges
    )
    budget = LARGE + 2 * BRANCHES
    given, found = (solve(graph, budget, solver="auto", time_limit=2, order=order) for order in ("given", "any"))
    assert graph.seconds < found.bound <= found.cost < given.bound
    assert (given.assumption, found.assumption) == (ORDER_GIVEN, ANY_SCHEDULE)


def test_what_draws_or_updates_keeps_its_turn() -> None:
    graph = branches(in_turn=True)
    found = solve(graph, LARGE + 2 * BRANCHES, solver="anneal", time_limit=1, order="any")
    assert found.cost == graph.seconds
    assert found.steps.index(0) < found.steps.index(2)
    turned = replace(graph, ops=tuple(replace(op, in_turn=True) for op in graph.ops))
    kept = solve(turned, LARGE + 2 * BRANCHES, solver="anneal", time_limit=1, order="any")
    assert Problem.of(turned).keeps_order(kept.steps or kept.minimum_steps)


def test_a_schedule_that_moves_them_is_no_candidate_in_the_given_order() -> None:
    graph, budget = branches(), LARGE + 2 * BRANCHES
    moved = solve(graph, budget, solver="anneal", time_limit=1, order="any").steps
    assert solve(graph, budget, solver="none", start=(moved,)).status == "infeasible"
    assert solve(graph, budget, solver="none", start=(moved,), order="any").steps == moved


def test_solvers_that_keep_the_order_refuse_by_name() -> None:
    with pytest.raises(OrderError, match="'ilp' keeps the order"):
        solve(branches(), 100, solver="ilp", order="any")
    with pytest.raises(OrderError, match="given or any"):
        solve(branches(), 100, order="all")  # type: ignore[arg-type]
