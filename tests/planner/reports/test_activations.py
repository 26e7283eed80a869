"""Activations: their decisions are those of the steps, and those of equal layers are one group."""

from __future__ import annotations

from remat_planner.planner.reports.activations import saved_activations
from remat_planner.schedules import Graph, Schedule
from tests.planner.layered_step import layered_schedule


def test_decisions_and_merged_layers() -> None:
    wide, kept, narrow = saved_activations([(layered_schedule(12, recomputed=7), [""])])
    assert (wide.module, wide.decision, wide.times, wide.count, wide.bytes) == ("layers.0-6.mlp", "recomputed", 1, 7, 28_000)
    assert (kept.module, kept.decision, kept.times, kept.count, kept.bytes) == ("layers.7-11.mlp", "kept", 0, 5, 20_000)
    assert (narrow.module, narrow.decision, narrow.count, narrow.bytes) == ("layers.0-11", "kept", 12, 12_000)
    assert (wide.kind, wide.source, wide.shape, wide.dtype) == (
        "aten.gelu.default",
        "/somewhere/model.py:7",
        (4, 250),
        "float32",
    )


def test_what_runs_once_but_late_is_not_called_kept() -> None:
    # 0 is forward work that only the backward (3) needs; this schedule runs it only then.
    plain = Graph.from_dag([1, 1, 1, 1], [5, 6, 7, 8], [(1, 2), (0, 3), (1, 3), (2, 3)], backward=3)
    late = Schedule(plain, (1, 2, 3 - 3, 3), budget=100, solver="", status="feasible", bound_seconds=0.0)
    assert [group.decision for group in saved_activations([(late, [""])])] == ["kept"] * 3  # it runs before the backward begins
    twice = Graph.from_dag([1] * 5, [5, 6, 7, 8, 9], [(1, 2), (2, 3), (0, 4), (3, 4)], backward=3)
    later = Schedule(twice, (1, 2, 3, 0, 4), budget=100, solver="", status="feasible", bound_seconds=0.0)
    assert {group.bytes: group.decision for group in saved_activations([(later, [""])])} == {5: "deferred", 7: "kept"}
