"""The promise, on every model of the zoo: measured peak within the budget, predicted as measured, eager's bits."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from torch import nn

from remat_planner import InfeasibleBudgetError, Schedule, verify
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.signatures import input_signature, state_signature
from remat_planner.planner.planning.solve_step import schedule_step
from remat_planner.planner.planning.step import Step, costed_step, trace_step
from tests.tracer.cases import Written, linear, mean_square, noise
from tests.zoo import ZOO, Case
from tests.zoo_captures import captured

BUDGETS = ("40%", "60%", "80%", "100%")
_LARGE = {"unet": ("40%", "80%"), "t5": ("60%", "100%"), "whisper": ("40%", "80%"), "bert": ("60%", "100%")}
"""The budgets of models that take long."""


def _traced(name: str) -> tuple[Case, Step]:
    case, joint = captured(name)
    settings = Settings(loss=case.loss, time_limit=1.0)
    return case, costed_step(joint, state_signature(case.model), input_signature(case.args, case.kwargs), settings)


def _planned(step: Step, budget: str) -> Schedule:
    """The schedule for ``budget`` or, where there is none, for the least one that the error names."""
    try:
        return schedule_step(step, budget)
    except InfeasibleBudgetError as error:
        infeasible = error
    assert infeasible.minimum > infeasible.budget
    # In the leaner form an op may be a part of one (":input") or several together ("+").
    assert re.split("[:+]", infeasible.bottleneck)[0] in step.graph.by_name
    least = schedule_step(step, infeasible.minimum)
    assert least.peak_bytes <= infeasible.minimum
    return least


def _largest_of_each_bag(m: Written, bags: torch.Tensor) -> torch.Tensor:
    return mean_square(m.a(m.table(bags, torch.arange(0, bags.numel(), 8))))


def _added_everywhere(m: Written, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    return mean_square(h * h.index_put((h < 1e9,), torch.tensor(1.0), accumulate=True))


@pytest.mark.parametrize("name", ["bags", "mask"])
def test_workspace_that_depends_on_values_is_counted_at_its_most(name: str) -> None:
    torch.manual_seed(0)
    if name == "bags":
        model = Written(_largest_of_each_bag, a=linear(), table=nn.EmbeddingBag(50, 16, mode="max"))
        args = (torch.randint(0, 50, (64,)),)
    else:
        model, args = Written(_added_everywhere, a=linear()), (noise(64, 16),)
    schedule = schedule_step(trace_step(model, args, {}, settings=Settings(solver="greedy")), "100%")
    result = verify(model, schedule, args)
    assert result.identical, result.differences
    assert result.measured_peak_bytes == result.predicted_peak_bytes <= schedule.budget


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_budget_and_bits_in_the_zoo(name: str) -> None:
    case, step = _traced(name)
    verified: set[tuple[int, ...]] = set()
    planned: list[Schedule] = []
    for budget in _LARGE.get(name, BUDGETS):
        schedule = _planned(step, budget)
        assert schedule.bound_seconds <= schedule.seconds * (1 + 1e-9)
        planned.append(schedule)
        if schedule.steps in verified:
            continue
        verified.add(schedule.steps)
        result = verify(case.model, schedule, case.args, case.kwargs)
        assert result.identical, result.differences
        assert result.measured_peak_bytes <= schedule.budget
        assert abs(result.predicted_peak_bytes / result.measured_peak_bytes - 1) <= 0.02
    for smaller, larger in pairwise(planned):
        if smaller.budget <= larger.budget:  # where nothing fits, the least budget found stands in for the one asked for
            assert larger.seconds <= smaller.seconds * (1 + 1e-9), "more budget gave a slower plan"
