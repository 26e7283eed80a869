"""Weights of a planned module that the training loop reads itself, under one autocast or another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.errors import SharedCastError
from remat_planner.planner.runtime import outside_casts
from remat_planner.planner.runtime.outside_casts import LookUps

Loop = Callable[[Any, torch.Tensor], torch.Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(32, 32), nn.Linear(32, 32)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.conv(self.body(x).view(-1, 4, 32)).flatten(0, 1)))


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def size(*outputs: torch.Tensor) -> torch.Tensor:
    return torch.stack([output.float().square().mean() for output in outputs]).sum()


def weight_after(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        return size(model(x), F.linear(x, model.head.weight))


def weight_before(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        beside = F.linear(x, model.head.weight)
        return size(model(x), beside)


def child(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        return size(model(x), model.conv(x.view(-1, 4, 32)))


def backward_inside(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        loss = weight_after(model, x)
        loss.backward()
    return loss.detach().requires_grad_()


def another_autocast(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        output = model(x)
    with autocast():
        return size(output, F.linear(x, model.head.weight))


def no_autocast(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        output = model(x)
    return size(output, F.linear(x, model.head.weight))


def cast_by_hand(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        return size(model(x), x.bfloat16() @ model.head.weight.bfloat16())


def another_backward(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        output, beside = model(x), F.linear(x, model.head.weight)
    size(beside).backward()
    return size(output)


def without_gradient(model: Any, x: torch.Tensor) -> torch.Tensor:
    with autocast():
        output = model(x)
        with torch.no_grad():
            beside = model.head(x)
        return size(output, beside)


def both() -> tuple[Net, Any, torch.Tensor]:
    torch.manual_seed(0)
    eager, x = Net(), torch.randn(64, 32)
    model = copy.deepcopy(eager)
    with autocast():
        schedule = remat_planner.plan(model, (x,), budget="100%", loss=size, solver="none")
    return eager, remat_planner.apply_schedule(model, schedule), x


def gradients(model: Any, loop: Loop, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loop(model, x).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "names"),
    [(weight_after, "head.weight"), (weight_before, "head.weight"), (backward_inside, "head.weight"), (child, "conv.weight")],
)
def test_a_read_under_the_same_autocast_in_the_same_loss_is_refused(loop: Loop, names: str):
    _, ours, x = both()
    with pytest.raises(SharedCastError, match=f"{names}.*is also read outside of the planned call"):
        gradients(ours, loop, x)


@pytest.mark.slow
@pytest.mark.parametrize("loop", [another_autocast, no_autocast, cast_by_hand, another_backward, without_gradient])
def test_any_other_read_is_not(loop: Loop):
    eager, ours, x = both()
    for _ in range(3):
        assert all(map(torch.equal, gradients(ours, loop, x), gradients(eager, loop, x)))


@pytest.mark.slow
def test_the_refusal_is_needed():
    eager, _, x = both()
    assert not all(map(torch.equal, gradients(eager, weight_after, x), gradients(eager, another_autocast, x)))


@pytest.mark.slow
def test_nothing_of_torch_stays_replaced():
    _, ours, x = both()
    original = torch.clear_autocast_cache
    with autocast():
        output, another = ours(x), ours(x * 2)
        assert torch.clear_autocast_cache is not original
    assert torch.clear_autocast_cache is original
    size(output).backward()
    size(another).backward()


def test_look_ups_take_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(outside_casts.time, "perf_counter", lambda: now)
    look_ups = LookUps()
    for _ in range(3):
        assert look_ups.is_due()
        look_ups.note(0.02)
    now = 1.9
    assert not look_ups.is_due()
    now = 2.1
    assert look_ups.is_due()
