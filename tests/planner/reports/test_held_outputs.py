"""What it costs that the loop holds the outputs."""

from __future__ import annotations

from remat_planner.planner.reports.held_outputs import HeldOutputs, held_outputs
from remat_planner.schedules import Graph, Op, Schedule, Storage, Value


def _schedule(*, late: int) -> Schedule:
    """Logits of 100 bytes and an activation of 50; the backward of ``late`` bytes is the peak, or the loss is."""
    storages = [Storage(50), Storage(100), Storage(10), Storage(late)]
    graph = Graph(
        ops=(
            Op("act", reads=(), writes=(0,)),
            Op("logits", reads=(0,), writes=(1,)),
            Op("loss", reads=(1,), writes=(2,), phase="backward"),
            Op("grad", reads=(0, 2), writes=(3,), phase="backward"),
        ),
        values=tuple(Value(str(i), i) for i in range(4)),
        storages=tuple(storages),
        results=(1, 3),
    )
    return Schedule(
        graph=graph, steps=(0, 1, 2, 3), budget=10_000, solver="none", status="optimal", bound_seconds=0.0, assumption=""
    )


def test_logits_that_the_loop_holds() -> None:
    schedule = _schedule(late=80)
    assert schedule.peak_bytes == 50 + 100 + 10 + 80
    assert held_outputs(schedule) == HeldOutputs(100, max(50 + 100 + 10, 50 + 10 + 80))


def test_a_peak_that_outputs_do_not_set() -> None:
    assert held_outputs(_schedule(late=0)) is None
