"""Calls of ``plan`` beside the usual one: on a model that has a schedule, and in several threads."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.errors import AlreadyAppliedError


def _network() -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(3)))


@pytest.mark.slow
def test_a_model_that_has_a_schedule_is_refused_by_name():
    model, x = _network(), torch.randn(8, 16)
    planned = remat_planner.apply_schedule(model, remat_planner.plan(model, (x,), budget="100%", verify=False))
    with pytest.raises(
        AlreadyAppliedError, match=r"this Sequential has a schedule already: plan the original .*remove_schedule"
    ):
        remat_planner.plan(planned, (x,), budget="100%")
    outer = nn.Sequential(nn.Linear(16, 16), planned)
    with pytest.raises(AlreadyAppliedError, match="1 of this Sequential has a schedule already: put the original"):
        remat_planner.plan(outer, (x,), budget="100%")
    assert remat_planner.plan(remat_planner.remove_schedule(planned), (x,), budget="100%", verify=False)


@pytest.mark.parametrize(
    "called", [remat_planner.apply_schedule, lambda *both: remat_planner.verify(*both, (torch.randn(8, 16),))]
)
def test_a_schedule_in_the_place_of_the_model_is_named(called):
    model = _network()
    schedule = remat_planner.plan(model, (torch.randn(8, 16),), budget="100%", verify=False)
    with pytest.raises(TypeError, match="the schedule is a Sequential: give the model first"):
        called(schedule, model)


@pytest.mark.slow
def test_threads_plan_one_after_the_other():
    wrong: list[BaseException] = []

    def work(model: nn.Module) -> None:
        x = torch.randn(32, 16)
        try:
            schedule = remat_planner.plan(model, (x,), budget="100%", time_limit=2)
            remat_planner.apply_schedule(model, schedule)(x).square().mean().backward()
        except BaseException as error:  # whatever a thread raises is the test's to see
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(_network(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
