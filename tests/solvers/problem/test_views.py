"""Views come back into the steps, each after the newest computation of its base."""

from __future__ import annotations

from remat_planner.schedules import Graph, Op, Pool, Storage, Value, simulate
from remat_planner.solvers.problem.reduced_graph import Problem
from remat_planner.solvers.problem.views import Views
from tests.transfers import FREE


def test_views_are_refreshed_after_their_base() -> None:
    storages = (Storage(10), Storage(1), Storage(1))
    values = (Value("a", 0), Value("b", 1), Value("c", 2), Value("view", 0), Value("view_of_view", 0))
    ops = (
        Op("a", (), (0,), seconds=1),
        Op("view", (0,), (3,)),
        Op("view_of_view", (3,), (4,)),
        Op("b", (4,), (1,), seconds=1),
        Op("c", (4, 1), (2,), seconds=1),
    )
    graph = Graph(ops, values, storages)
    problem = Problem.of(graph)
    assert problem.n == 3
    assert problem.expand([0, 1, 0, 2]) == (0, 1, 2, 3, 0, 1, 2, 4)

    # A load allocates a new base as a recomputation does.
    with_copies = graph.with_transfers([Pool("host", 10, FREE, FREE)], [0])
    store, release, load = with_copies.copy_steps(0)
    steps = Views(with_copies).restore([0, 3, store, release, load, 4])
    assert steps == (0, 1, 2, 3, store, release, load, 1, 2, 4)
    assert simulate(with_copies, steps).peak_bytes == 12
