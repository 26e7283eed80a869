"""What modules and operators take at the peak, and what their recomputation costs and saves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from remat_planner.planner.reports.breakdown import by_module, by_operator
from remat_planner.planner.reports.budget_neighbours import neighbours
from remat_planner.planner.reports.explanation import explain, explain_together
from remat_planner.planner.reports.peak_memory import memory_at_peak, memory_over_step
from remat_planner.schedules import Graph, Schedule, simulate
from tests.planner.layered_step import layered_schedule


@pytest.mark.parametrize("eager_workspace", [0, 40_000])
def test_the_rows_add_up_to_the_peaks(eager_workspace: int) -> None:
    schedule = layered_schedule(12, recomputed=7)
    ops = tuple(replace(op, eager_workspace=eager_workspace if op.pinned else 0) for op in schedule.graph.ops)
    schedule = replace(schedule, graph=replace(schedule.graph, ops=ops))
    for rows in (by_module(schedule), by_operator(schedule)):
        assert sum(row.peak_bytes for row in rows) + schedule.graph.constant_bytes == schedule.peak_bytes
        assert sum(row.baseline_peak_bytes for row in rows) + schedule.graph.constant_bytes == schedule.baseline_peak_bytes
        assert sum(row.seconds for row in rows) == pytest.approx(schedule.seconds - schedule.baseline_seconds)
        assert sum(row.recomputations for row in rows) == 7
    (mlp,) = (row for row in by_module(schedule) if row.name == "layers.0-11.mlp")
    alone = simulate(schedule.graph, range(len(ops))).peak_bytes  # nothing else is recomputed
    assert mlp.saved_bytes == alone - schedule.peak_bytes
    assert [row.name for row in by_operator(schedule) if row.saved_bytes] == ["gelu"]


def test_the_kinds_over_the_step_add_up_to_the_simulation() -> None:
    schedule = layered_schedule(12, recomputed=7)
    kinds = memory_over_step(schedule.graph, schedule.steps)
    assert (sum(kinds.values()) + schedule.graph.constant_bytes).tolist() == schedule.simulation.bytes.tolist()
    at_peak = {kind: live[schedule.simulation.peak_step] for kind, live in kinds.items()}
    assert {**schedule.graph.constants, **{k: v for k, v in at_peak.items() if v}} == memory_at_peak(schedule)


def test_recomputation_that_only_moves_the_peak_saves_nothing() -> None:
    # 0 is recomputed for op 4, but the peak is op 2, where it is read anyway: running it once would not raise the peak.
    graph = Graph.from_dag([1] * 5, [4, 1, 8, 1, 1], [(0, 1), (0, 2), (1, 2), (1, 3), (0, 4), (3, 4)], backward=3)
    steps = (0, 1, 2, 3, 0, 4)
    schedule = Schedule(graph, steps, budget=100, solver="", status="feasible", bound_seconds=0.0)
    assert simulate(graph, steps).peak_bytes == schedule.baseline_peak_bytes
    (row,) = by_operator(schedule)
    assert (row.recomputations, row.seconds, row.saved_bytes) == (1, 1.0, 0)
    assert Counter(steps)[0] == 2


@pytest.mark.parametrize(
    ("what", "ops", "recomputations"),
    [
        ("layers.1", 4, 1),  # not layers.10 and layers.11
        ("layers.0-11.mlp", 12, 7),  # as reports show it
        ("gelu", 12, 7),
        ("layers.9.", 4, 0),
    ],
)
def test_what_an_explanation_is_of(what: str, ops: int, recomputations: int) -> None:
    explanation = explain_together(layered_schedule(12, recomputed=7), what, title="these")
    assert explanation is not None
    assert (explanation.ops, explanation.together.recomputations) == (ops, recomputations)
    assert sum(row.peak_bytes for row in explanation.operators) == explanation.together.peak_bytes


def test_an_explanation_of_nothing() -> None:
    assert explain_together(layered_schedule(2), "no such op", title="these") is None
    assert explain(layered_schedule(2), "no such op") == []


@pytest.mark.slow
def test_neighbouring_budgets() -> None:
    schedule = layered_schedule(4, recomputed=2)
    schedule = replace(schedule, budget=schedule.peak_bytes)
    solved = {n.difference_bytes: n for n in neighbours(schedule)}
    assert set(solved) == {1000, -1000}  # a tenth of the budget at most
    assert all(n.budget_bytes == schedule.budget + difference for difference, n in solved.items())
    more, less = solved[1000].overhead, solved[-1000].overhead
    assert more is not None
    assert 0 <= more <= schedule.overhead
    assert less is not None
    assert less >= more
    assert all(0 <= n.bound_overhead <= n.overhead + 1e-9 for n in solved.values() if n.overhead is not None)
    tight = replace(schedule, budget=schedule.graph.constant_bytes)
    assert [n.overhead for n in neighbours(tight)] == [None, None]
