"""The usual policies are compared at the schedule's own budget."""

from __future__ import annotations

from remat_planner.planner.reports.policy_comparison import PolicyCost, compare
from tests.planner.layered_step import layered_schedule


def test_the_comparison_is_at_the_schedules_budget() -> None:
    schedule = layered_schedule(12, recomputed=7)
    rows = {row.solver: row for row in compare(schedule)}
    assert rows["none"] == PolicyCost("none", schedule.baseline_peak_bytes, 0.0, fits=False)
    assert all(row.fits == (row.peak_bytes <= schedule.budget) for row in rows.values())
