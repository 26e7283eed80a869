"""The kinds of memory at the peak add up to what the simulator says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from remat_planner.planner.reports.peak_memory import memory_at_peak
from remat_planner.schedules import Schedule
from tests.planner.layered_step import layered_schedule
from tests.sampling import examples
from tests.strategies import graphs, schedules
from tests.transfers import transfer_schedules, with_pools


@examples(150)
@given(st.data())
def test_memory_adds_up_to_the_peak(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    steps = data.draw(schedules(graph))
    if data.draw(st.booleans()):
        graph = data.draw(with_pools(graph))
        steps = data.draw(transfer_schedules(graph, steps))
    schedule = Schedule(graph, tuple(steps), budget=1, solver="", status="feasible", bound_seconds=0.0)
    assert sum(memory_at_peak(schedule).values()) == schedule.peak_bytes


def test_memory_by_hand() -> None:
    schedule = layered_schedule(1, recomputed=0)
    # The gradient of the weight is made from 4 units of activation and 1 of gradient, into 2 units that stay.
    assert memory_at_peak(schedule) == {
        "parameters": 4000,
        "gradients": 2000,
        "activations": 4000,
        "backward temporaries": 1000,
        "kernel workspace": 1500,
    }
