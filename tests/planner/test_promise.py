"""The promise, on every model of the zoo: measured peak within the budget, predicted as measured, eager's bits."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch

from planner import InfeasibleBudgetError, Schedule, verify
from planner.plan import schedule_step
from planner.step import Settings, Step, trace_step
from tests.zoo import ZOO, Case

BUDGETS = ("40%", "60%", "80%", "100%")


@cache
def _traced(name: str) -> tuple[Case, Step]:
    torch.manual_seed(0)
    case = ZOO[name]()
    settings = Settings(loss=case.loss, time_limit=1.0)
    return case, trace_step(case.model, case.args, case.kwargs, settings=settings)


def _planned(step: Step, budget: str) -> Schedule:
    """The schedule for ``budget`` or, where there is none, for the least one that the error names."""
    try:
        return schedule_step(step, budget)
    except InfeasibleBudgetError as error:
        infeasible = error
    assert infeasible.minimum > infeasible.budget
    assert infeasible.bottleneck in step.graph.by_name
    least = schedule_step(step, infeasible.minimum)
    assert least.peak_bytes <= infeasible.minimum
    return least


@pytest.mark.parametrize("name", ZOO)
def test_budget_and_bits(name: str) -> None:
    case, step = _traced(name)
    verified: set[tuple[int, ...]] = set()
    planned: list[Schedule] = []
    for budget in BUDGETS:
        schedule = _planned(step, budget)
        assert schedule.bound_seconds <= schedule.seconds * (1 + 1e-9)
        planned.append(schedule)
        if schedule.steps in verified:
            continue
        verified.add(schedule.steps)
        result = verify(case.model, schedule, case.args, case.kwargs)
        assert result.identical, result.differences
        assert result.measured_peak_bytes <= schedule.budget
        assert abs(result.predicted_peak_bytes - result.measured_peak_bytes) <= 0.02 * result.measured_peak_bytes
    for smaller, larger in pairwise(planned):
        if smaller.budget <= larger.budget:  # where nothing fits, the least budget found stands in for the one asked for
            assert larger.seconds <= smaller.seconds * (1 + 1e-9), "more budget gave a slower plan"
