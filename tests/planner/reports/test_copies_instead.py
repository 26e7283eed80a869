"""What reports say that copies on the host would give."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from remat_planner.planner.reports import copies_instead, plan_report, summarize
from remat_planner.schedules import Channel, Pool
from remat_planner.solvers import solve
from tests.planner.layered_step import layered_graph, layered_schedule

FAST = Channel(math.inf)


@pytest.mark.slow
def test_a_fast_link_gives_all_the_time_back_and_a_slow_one_nothing() -> None:
    solve(layered_graph(2).with_transfers([Pool("host", 10**6, FAST, FAST)]), 10**4, solver="offload")  # compiles the search
    schedule = layered_schedule(6, recomputed=6)
    found = copies_instead(schedule, FAST, FAST)
    assert found is not None
    assert found.overhead == pytest.approx(0)
    assert found.host_bytes > 0
    assert copies_instead(schedule, Channel(1e-3), Channel(1e-3)) is None
    console = Console(file=io.StringIO(), width=200)
    console.print(plan_report(summarize(schedule, instead=found), understood=""))
    assert "on paper +0.00 % instead" in console.file.getvalue()  # type: ignore[attr-defined]


def test_nothing_is_said_of_plans_that_cost_nothing() -> None:
    assert copies_instead(layered_schedule(3, recomputed=0), FAST, FAST) is None
