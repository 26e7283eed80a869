"""Calls of ``plan`` beside the usual one: on a model that has a schedule, in several threads, with arguments of other kinds."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import apply_schedule, budgeted, plan
from remat_planner.planner.errors import AlreadyAppliedError, BudgetError, InfeasibleBudgetError, RegionError
from remat_planner.tracer import CaptureError


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


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"model": nn.Linear}, CaptureError, "the model is a type: pass an nn.Module"),
        ({"args": torch.zeros(1, 6)}, CaptureError, r"args is a Tensor: pass the positional inputs as a tuple, `\(x,\)`"),
        ({"args": None}, CaptureError, "args is a NoneType"),
        ({"kwargs": [torch.zeros(1, 6)]}, CaptureError, "kwargs is a list: pass the named inputs as a dictionary"),
        ({"loss": lambda output: (output * 1j).sum()}, CaptureError, "the loss is complex"),
        ({"optimizer": 5}, ValueError, "the optimizer is a int"),
        ({"regions": 5}, RegionError, "regions is a pattern of names"),
        ({"time_limit": "5"}, TypeError, "time_limit is '5'"),
        ({"budget": "1,5GB"}, BudgetError, "has a decimal comma: did you mean '1.5GB'"),
        ({"budget": "0.0001%"}, InfeasibleBudgetError, "within 1 bytes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_an_argument_of_another_kind_is_refused_by_name(changed: dict[str, Any], error: type[Exception], text: str) -> None:
    call = {"model": nn.Linear(6, 2), "args": (torch.zeros(1, 6),), "budget": "100%", "loss": torch.mean, "verify": False}
    with pytest.raises(error, match=text):
        plan(**(call | changed))


def test_what_is_no_model_gets_no_schedule() -> None:
    schedule = plan(nn.Linear(6, 2), (torch.zeros(1, 6),), budget="100%", loss=torch.mean, solver="none", verify=False)
    for call in (lambda: apply_schedule(torch.mean, schedule), lambda: budgeted(None, "1GB")):
        with pytest.raises(CaptureError, match=r"pass an nn\.Module"):
            call()
