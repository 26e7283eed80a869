"""Gradients of compiled steps beside eager's: close, not to be compared, or wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from remat_planner.planner.errors import CompilerError
from remat_planner.planner.partition.compared_gradients import largest_difference


class _Steps:
    """A layer and another one beside it, in eager and with ``factor`` in the place of what is compiled wrong."""

    def __init__(self, factor: float, dropout: float = 0.0) -> None:
        self.model, self.x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 1)), torch.ones(3, 4)
        self.model.register_parameter("unused", nn.Parameter(torch.ones(2)))
        self.factor = factor

    def eager(self) -> None:
        self.model(self.x).sum().backward()

    def compiled(self) -> None:
        self.eager()
        self.model[0].bias.grad.mul_(self.factor)

    def compared(self) -> float | None:
        return largest_difference(self.model, self.eager, self.compiled, self.model.zero_grad)


def test_close_gradients_have_a_difference():
    assert _Steps(1.0).compared() == 0.0
    found = _Steps(1 + 1e-5).compared()
    assert found is not None
    assert 1e-6 < found < 3.4e-4


def test_a_wrong_gradient_is_named_and_refused():
    with pytest.raises(CompilerError, match=r"gradient of 0\.bias differs from eager's by 2\d\.\d %.*remat_planner\.plan"):
        _Steps(1.25).compared()


def test_a_step_that_draws_is_not_compared():
    assert _Steps(1.25, dropout=0.5).compared() is None


def test_where_eager_does_not_fit_nothing_is_compared(monkeypatch: pytest.MonkeyPatch):
    steps = _Steps(1.25)

    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps, "eager", too_large)
    assert steps.compared() is None


class _NearZero:
    """A ReLU of a sum that is zero but for rounding: in eager its gradient is zero there, when compiled it is ``slope``."""

    def __init__(self, slope: float) -> None:
        self.model = nn.Linear(2, 1, bias=False)
        self.slope = slope
        self.restart()

    def restart(self) -> None:
        self.model.zero_grad()
        nn.init.ones_(self.model.weight)

    def eager(self) -> None:
        torch.relu(self.model(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))).sum().backward()

    def compiled(self) -> None:
        self.eager()
        self.model.weight.grad.add_(torch.tensor([[1.0, -1.0]]), alpha=self.slope)


def test_a_jump_of_the_gradient_is_no_error():
    steps = _NearZero(1.0)
    found = largest_difference(steps.model, steps.eager, steps.compiled, steps.restart)
    assert found is not None
    assert found > 0.9
    assert torch.equal(steps.model.weight, torch.ones(1, 2))
    steps = _NearZero(2.5)
    with pytest.raises(CompilerError, match="gradient of weight"):
        largest_difference(steps.model, steps.eager, steps.compiled, steps.restart)
