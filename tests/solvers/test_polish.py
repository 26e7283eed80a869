"""The last pass: no recomputation stays that the budget does not ask for."""

from __future__ import annotations

from remat_planner.schedules import Graph, simulate
from remat_planner.solvers import Answer, Polished, Solver, Task, solve

_LAYERS = 5


def _chain() -> Graph:
    """A chain of layers and its backward, each op of which reads what its layer read."""
    forward, count = range(_LAYERS), 2 * _LAYERS
    edges = [(i, i + 1) for i in range(count - 1)] + [(i, count - 1 - i) for i in forward]
    return Graph.from_dag([1.0 + i for i in range(count)], [10] * count, edges, [i >= _LAYERS for i in range(count)])


class Everything(Solver):
    """Recomputes the whole forward before each op of the backward."""

    name = "everything"
    description = "a test's"

    def solve(self, task: Task) -> Answer:
        backward = range(_LAYERS, 2 * _LAYERS)
        return Answer([*range(_LAYERS), *(i for b in backward for i in (*range(2 * _LAYERS - 1 - b), b))])


def test_needless_recomputations_are_dropped() -> None:
    graph = _chain()
    order = range(2 * _LAYERS)
    enough = simulate(graph, order).peak_bytes
    assert solve(graph, enough, solver=Everything()).cost > graph.seconds
    assert solve(graph, enough, solver=Polished(Everything())).steps == tuple(order)


def test_what_the_budget_asks_for_stays() -> None:
    graph = _chain()
    budget = simulate(graph, range(2 * _LAYERS)).peak_bytes - 10
    before, after = (solve(graph, budget, solver=solver) for solver in (Everything(), Polished(Everything())))
    assert graph.seconds < after.cost < before.cost
    assert after.peak_bytes <= budget
    assert after.cost == solve(graph, budget, solver="auto", time_limit=2).cost
    assert solve(graph, 10, solver=Polished(Everything())).status == "infeasible"
