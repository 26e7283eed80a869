"""Which program a call runs: a planned one, a new one for other inputs or another model, or the model's own forward."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule
from remat_planner.schedules import Schedule, StaleScheduleError
from remat_planner.tracer import capture
from tests.planner.random_schedules import schedule_of
from tests.planner.runtime.planned_net import (
    Net,
    build,
    equal,
    gradients,
    planned,
    planned_net,
    replanning,
)


@pytest.mark.slow
def test_another_form_of_input_is_planned_once(caplog: pytest.LogCaptureFixture):
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))
    small = torch.randn(2, 3, 6, 6)
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        for inputs, times in ((x, 1), (small, 1), (x, 1), (small, 1), (x, 2), (small, 1), (x, 2)):
            for module in (eager, ours):
                torch.manual_seed(5)
                module(inputs, times=times)["loss"].backward()
            assert equal(gradients(ours), gradients(eager)), (inputs.shape, times)
    # The plan was made for a call without ``times``, so every one of these three forms is new.
    assert calls == [(4, 3, 6, 6), (2, 3, 6, 6), (4, 3, 6, 6)]
    assert len(caplog.records) == 3
    assert "[2, 3, 6, 6]" in caplog.text


@pytest.mark.slow
def test_python_values_that_change_are_planned_with(caplog: pytest.LogCaptureFixture):
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))

    def trained_alike() -> bool:
        for module in (eager, ours):
            module.zero_grad()
            torch.manual_seed(5)
            module(x)["loss"].backward()
        return equal(gradients(ours), gradients(eager))

    for name, value in (("note", "unread"), ("scale", 3.0), ("scale", 1.0), ("note", "still unread")):
        for module in (eager, ours):
            setattr(module, name, value)
        with caplog.at_level(logging.WARNING, logger="remat_planner"):
            assert trained_alike(), (name, value)
    assert not calls  # another number: the same schedule
    assert "changed since the model was captured: scale" in caplog.text


@pytest.mark.slow
def test_a_model_that_changed_is_planned_again():
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))

    def train_alike(expected_plans: int) -> None:
        for module in (eager, ours):
            module.zero_grad()
            torch.manual_seed(5)
            module(x)["loss"].backward()
        assert equal(gradients(ours), gradients(eager))
        assert len(calls) == expected_plans

    train_alike(0)
    for module in (eager, ours):
        module.conv.weight.requires_grad_(False)
    train_alike(1)
    torch.manual_seed(9)
    replacement = nn.Linear(8, 4)
    ours.head, eager.head = replacement, copy.deepcopy(replacement)
    train_alike(2)
    for module in (eager, ours):
        module.norm.eval()
    train_alike(3)
    for module in (eager, ours):
        module.head.weight = nn.Parameter(module.head.weight.detach() * 2)  # of the same form: no new plan
    train_alike(3)


@pytest.mark.slow
def test_schedules_of_other_models_are_refused(tmp_path: Any):
    import remat_planner

    model, x = build()
    schedule = remat_planner.plan(model, (x,), budget="100%", costs="h100")
    wider = Net()
    wider.head = nn.Linear(8, 5)
    with pytest.raises(StaleScheduleError, match=r"head\.weight") as caught:
        apply_schedule(wider, schedule)
    assert any("head.bias" in line for line in caught.value.differences)

    schedule.save(tmp_path / "net.schedule.json")
    loaded = Schedule.load(tmp_path / "net.schedule.json")

    class Other(Net):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.norm(self.conv(x))).mean((2, 3))

    other = apply_schedule(Other(), loaded)
    with pytest.raises(StaleScheduleError, match="sigmoid"):
        other(x)
    ours = apply_schedule(model, loaded)
    eager = copy.deepcopy(model)
    for module in (eager, ours):
        torch.manual_seed(5)
        module(x)["loss"].backward()
    assert equal(gradients(ours), gradients(eager))


@pytest.mark.slow
def test_a_forward_with_all_frozen_is_eager():
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))
    for module in (ours, eager):
        module.requires_grad_(False)
    torch.manual_seed(5)
    found = ours(x)["loss"]
    torch.manual_seed(5)
    assert torch.equal(found, eager(x)["loss"])
    assert not found.requires_grad
    assert not calls


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor, shift: Any = 0) -> torch.Tensor:
        return (self.layer(x) * scale + shift).square().sum()


@pytest.mark.slow
def test_arguments_are_told_apart_by_their_names():
    torch.manual_seed(0)
    model = Mixed()
    eager, x, y, z = copy.deepcopy(model), torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4)
    calls: list[dict[str, Any]] = [{"scale": y}, {"scale": y, "shift": z}, {"shift": y, "scale": z}, {"scale": y, "shift": 1.0}]
    ours = apply_schedule(model, schedule_of(capture(model, (x,), calls[0])), replan=replanning([]))
    for kwargs in (*calls, *calls):
        assert torch.equal(ours(x, **kwargs), eager(x, **kwargs))


@pytest.mark.slow
def test_ambient_autocast_is_part_of_the_plan():
    model, x = build()
    eager = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = planned(model, (x,))
    for module in (eager, ours):
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = module(x)["loss"]
        loss.backward()
    assert equal(gradients(ours), gradients(eager))
    assert ours.hidden.weight.grad.dtype is torch.float32
