"""Values and sizes that depend on inputs: each leads to its own program, or, where nothing depends on them, to the same one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule, plan, verify
from remat_planner.planner.apply import planned_call
from remat_planner.schedules import Schedule, StaleScheduleError
from tests.tracer.cases import Written, mean_square

X = torch.randn(12, 16)


def rows(m: Written, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mean_square(m.b(torch.relu(m.a(x))[mask]))


def checked(m: Written, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if int(mask.sum()) > 10:
        raise ValueError("too many")
    return mean_square(m.b(torch.relu(m.a(x)) * mask[:, None]))


def scaled(m: Written, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mean_square(m.b(torch.relu(m.a(x)))) / int(mask.sum())


def first(ones: int) -> torch.Tensor:
    return torch.arange(12) < ones


def built(forward: Callable[..., torch.Tensor]) -> Written:
    return Written(forward, a=nn.Linear(16, 32), b=nn.Linear(32, 16))


def scheduled(model: nn.Module, mask: torch.Tensor) -> Schedule:
    schedule = plan(model, (X, mask), budget=10**6, solver="none", costs="h100", verify=False)
    assert isinstance(schedule, Schedule)
    return schedule


def trains_alike(ours: nn.Module, eager: nn.Module, mask: torch.Tensor) -> bool:
    results = []
    for module in (eager, ours):
        module.zero_grad()
        loss = module(X, mask)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in module.parameters())])
    return all(map(torch.equal, *results))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="remat_planner")


@pytest.mark.slow
def test_each_size_has_a_program():
    model = built(rows)
    ours = apply_schedule(model, scheduled(model, first(4)))
    assert all(trains_alike(ours, model, first(ones)) for ones in (4, 7, 4, 7))
    assert trains_alike(ours, model, first(7).flip(0)), "another mask of a size that is known"
    assert len(planned_call(ours).programs) == 2


@pytest.mark.slow
def test_a_value_on_which_nothing_depends_needs_no_program():
    model = built(checked)
    ours = apply_schedule(model, scheduled(model, first(4)))
    assert all(trains_alike(ours, model, first(ones)) for ones in (4, 7, 4, 7))
    assert len(planned_call(ours).programs) == 1


@pytest.mark.slow
def test_a_value_that_is_a_number_of_the_step_keeps_the_schedule():
    model = built(scaled)
    schedule = scheduled(model, first(4))
    ours = apply_schedule(model, schedule)
    assert all(trains_alike(ours, model, first(ones)) for ones in (4, 7, 4, 7))
    assert [program.schedule for program in planned_call(ours).programs] == [schedule, schedule]


@pytest.mark.slow
def test_a_loaded_schedule_is_planned_anew_for_another_size(tmp_path: Path):
    model = built(rows)
    scheduled(model, first(4)).save(tmp_path / "plan.json")
    ours = apply_schedule(model, Schedule.load(tmp_path / "plan.json"))
    assert all(trains_alike(ours, model, first(ones)) for ones in (7, 4))
    assert len(planned_call(ours).programs) == 2


@pytest.mark.slow
def test_verify_refuses_inputs_of_another_size():
    model = built(rows)
    schedule = scheduled(model, first(4))
    with pytest.raises(StaleScheduleError, match="decide sizes"):
        verify(model, schedule, (X, first(7)))
