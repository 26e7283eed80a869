"""Solvers that copy: their answers run within all budgets, and the better ones are never worse than the simpler ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Channel, Graph, Pool, simulate
from remat_planner.solvers import Deadline, Reporter, Task, registry, solve
from remat_planner.solvers.copies import CopySearch, loop
from remat_planner.solvers.interface import WITHOUT_COPIES
from tests.sampling import examples
from tests.solvers.helpers import SOLVERS, baseline_peak, check, networks, training_steps
from tests.transfers import channels, with_pools

COPYING = [name for name in SOLVERS if registry.get(name).copies]
BASELINES = ["offload-all", "offload-inputs", "offload-greedy"]


@pytest.mark.slow(all_cases=True)
@pytest.mark.parametrize("name", COPYING)
def test_answers_are_true_on_graphs_with_pools(name: str) -> None:
    @examples(40 if name in (*BASELINES, "pofo") else 8)
    @given(st.data(), st.sampled_from([0.9, 0.7, 0.5]))
    def holds(data: st.DataObject, share: float) -> None:
        graph: Graph = data.draw(with_pools(data.draw(st.one_of(networks(), training_steps())), channels()))
        budget = max(1, graph.constant_bytes, round(share * baseline_peak(graph.without_transfers)))
        check(graph, budget, solve(graph, budget, solver=name, time_limit=min(SOLVERS[name], 0.3)))

    compile_all()
    holds()


def compile_all() -> None:
    """Compile what solvers that copy use: with the short limits of these tests they would leave it alone."""
    graph = deep(2, 100)
    for name in ("offload", "pofo"):
        solve(graph, baseline_peak(graph.without_transfers) // 2, solver=name)


def deep(layers: int, host: int, slowdown: float = 1.0) -> Graph:
    """A chain of numbered layers, each with an input of 4 bytes and an inner value of 8 that its backward reads too."""
    edges, n = [], 2 * layers
    for k in range(layers):
        backward = 2 * n - 2 * k - 2
        edges += [(2 * k, 2 * k + 1), (2 * k + 1, backward), (2 * k, backward), (backward, backward + 1)]
        edges += [(2 * k - 1, 2 * k)] if k else []
        edges += [(backward - 1, backward)]
    costs = [1.0, 3.0] * layers + [5.0, 2.0] * layers
    sizes = [4, 8] * layers + [2, 1] * layers
    graph = Graph.from_dag(costs, sizes, sorted(set(edges)), backward=n)
    channel = Channel(2.0, slowdown=slowdown)
    return graph.with_transfers([Pool("host", host, channel, channel)])


@pytest.mark.parametrize("name", ["auto", "offload"])
def test_a_short_time_limit_does_not_wait_for_a_compiler(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ready", lambda: False)
    graph = deep(8, 1000)
    budget = round(0.7 * baseline_peak(graph.without_transfers))
    solution = solve(graph, budget, solver=name, time_limit=1.0)
    assert "compiling the search takes" in solution.note
    assert solution.status != "infeasible"
    assert simulate(graph, solution.steps).traffic is None
    assert solution.bound == graph.seconds or WITHOUT_COPIES in solution.assumption


@pytest.mark.slow
def test_a_search_begins_with_what_the_task_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_all()
    graph = deep(8, 1000)
    budget = baseline_peak(graph.without_transfers) // 2
    known = solve(graph, budget, solver="offload", time_limit=2.0)
    for step in ("_solve_and_round", "anneal"):
        monkeypatch.setattr(CopySearch, step, lambda _: None)
    plain, informed = (CopySearch(Task(graph, budget, Deadline(1.0), Reporter(), start)) for start in ((), (known.steps,)))
    plain.begin()
    informed.begin()
    assert informed.best.seconds == pytest.approx(known.cost)
    assert known.cost < plain.best.seconds


@pytest.mark.slow
@pytest.mark.parametrize("host", [1000, 30, 0])
@pytest.mark.parametrize("slowdown", [1.0, 1.3])
def test_auto_is_never_worse_than_the_others(host: int, slowdown: float) -> None:
    compile_all()
    graph = deep(8, host, slowdown)
    budget = baseline_peak(graph.without_transfers) // 2
    best = solve(graph, budget, time_limit=4.0)
    costs = {name: solve(graph, budget, solver=name, time_limit=2.0).cost for name in (*BASELINES, "offload", "pofo", "ilp")}
    assert best.cost <= min(costs.values()) * (1 + 1e-9)
    assert best.bound <= best.cost
    assert simulate(graph, best.steps).pool_peaks.get("host", 0) <= host
    if host:
        assert best.cost < costs["ilp"]
        assert "without copies" not in best.assumption
