"""State that one step leaves for the next: it begins, is carried on, and is reset between sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.tracer.errors import PythonStateError

Forward = Callable[[Any, torch.Tensor], torch.Tensor]


def none_at_first(m: Any, h: torch.Tensor) -> torch.Tensor:
    h = torch.tanh(h if m.state is None else h + m.carry(m.state))
    m.state = h.detach()
    return h


def zeros_at_first(m: Any, h: torch.Tensor) -> torch.Tensor:
    if m.state is None:
        m.state = torch.zeros_like(h)
    h = torch.tanh(h + m.carry(m.state))
    m.state = h.detach()
    return h


def in_a_tuple(m: Any, h: torch.Tensor) -> torch.Tensor:
    one, other = m.state or (torch.zeros_like(h), torch.ones_like(h))
    h = torch.tanh(h * other + m.carry(one))
    m.state = (h.detach(), h.detach().sigmoid())
    return h


def in_a_dictionary(m: Any, h: torch.Tensor) -> torch.Tensor:
    if m.state:
        h = h + m.carry(m.state["h"])
    m.state = {"h": torch.tanh(h.detach()), "unread": h.detach()}
    return h


def average(m: Any, h: torch.Tensor) -> torch.Tensor:
    mean = h.detach().mean(0)
    m.state = mean if m.state is None else m.state * 0.9 + mean * 0.1
    return torch.sin(h - m.state)


def flag(m: Any, h: torch.Tensor) -> torch.Tensor:
    h = h * 2 if m.state is None else h
    m.state = False
    return h


class Net(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.carry, self.b = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.state: Any = None
        self.step = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.step(self, self.a(x)))


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def tensors(state: Any) -> list[Any]:
    values = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else [state]
    return [value for value in values if isinstance(value, torch.Tensor)]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forward", "begun"),
    [
        (none_at_first, False),
        (in_a_tuple, True),
        slow(none_at_first, True),
        slow(zeros_at_first, False),
        slow(in_a_tuple, False),
        slow(in_a_dictionary, False),
        slow(average, False),
        slow(flag, False),
    ],
)
def test_a_state_begins_is_carried_on_and_reset(forward: Forward, begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    eager, model = Net(forward), Net(forward)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    if begun:
        eager(x)
        model(x)
    asked: Any = {"loss": mean_square, "budget": 10_000, "solver": "greedy", "time_limit": 1}
    schedule = remat_planner.plan(model, (x,), verify=False, whole=True, **asked)
    ours = remat_planner.apply_schedule(model, schedule)
    caplog.clear()
    for k in range(6):
        if k in (3, 5):
            eager.state = model.state = None
        for m in (eager, ours):
            mean_square(m(x * (k + 1))).backward()
        for p, q in zip(eager.parameters(), model.parameters(), strict=True):
            assert p.grad is q.grad is None or torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
        for one, other in zip(tensors(eager.state), tensors(model.state), strict=True):
            assert torch.equal(one, other)
    assert len(caplog.records) <= 2  # each of the two steps is captured once


def with_history(m: Any, h: torch.Tensor) -> torch.Tensor:
    h = torch.tanh(h + m.carry(m.state))
    m.state = h
    return h


def detached_when_read(m: Any, h: torch.Tensor) -> torch.Tensor:
    h = torch.tanh(h if m.state is None else h + m.carry(m.state.detach()))
    m.state = h
    return h


def _detach(model: Any) -> None:
    model.state = model.state.detach()


@pytest.mark.slow
@pytest.mark.parametrize("between", [_detach, lambda _: None])
def test_a_state_with_a_history_that_is_detached(between: Callable[[Any], None]) -> None:
    eager, model = (Net(with_history if between is _detach else detached_when_read) for _ in range(2))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    eager.state = model.state = torch.zeros(4, 8)
    asked: Any = {"loss": mean_square, "budget": 10_000, "solver": "greedy", "time_limit": 1}
    ours = remat_planner.apply_schedule(model, remat_planner.plan(model, (x,), verify=False, whole=True, **asked))
    for k in range(4):
        for m, own in ((eager, eager), (ours, model)):
            mean_square(m(x * (k + 1))).backward()
            assert own.state.requires_grad
            between(own)
        assert torch.equal(eager.state, model.state)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(eager.parameters(), model.parameters(), strict=True))  # type: ignore[arg-type]


def test_a_state_with_a_history_that_is_not_detached_is_refused_where_it_is_read() -> None:
    model = Net(with_history)
    x = torch.randn(4, 8)
    model.state = model.a(x)
    with pytest.raises(PythonStateError, match="reads state, which an earlier step has left with its history"):
        remat_planner.trace(model, (x,), loss=mean_square)


@pytest.mark.slow
def test_verify_begins_and_carries_on_a_state() -> None:
    x, model = torch.randn(4, 8), Net(none_at_first)
    schedule = remat_planner.plan(model, (x,), budget=10_000, loss=mean_square, solver="greedy", verify=False, whole=True)
    verified = remat_planner.verify(model, schedule, (x,))
    assert verified.identical
    assert verified.measured_peak_bytes <= schedule.peak_bytes


@pytest.mark.slow
def test_a_state_that_differs_in_each_step_is_refused() -> None:
    def counts(m: Any, h: torch.Tensor) -> torch.Tensor:
        m.state = 1 if m.state is None else m.state + 1
        return h * m.state

    def turns(m: Any, h: torch.Tensor) -> torch.Tensor:
        m.state = not m.state
        return h * 2 if m.state else h

    for forward in (counts, turns):
        model = Net(forward)
        with pytest.raises(PythonStateError, match="state"):
            remat_planner.trace(model, (torch.randn(4, 8),), loss=mean_square)
        assert model.state is None
