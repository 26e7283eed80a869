"""Planned steps with TorchScript in them, which runs as it is: eager's bits, within the budget, as predicted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import InfeasibleBudgetError
from remat_planner.tracer.errors import ModelNotSupportedError, UnsupportedOperatorError

Make = Callable[[], nn.Module]


@torch.jit.script
def _bias_gelu(bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x = bias + x
    return x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))


class BiasGelu(nn.Module):
    """A scripted function, as fused activations of older transformers are."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + _bias_gelu(self.bias, x)


class Halves(nn.Module):
    """Two results, of which the second has no gradient."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sin() * x, x.detach().sum(1, keepdim=True)


class OfHalves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.halves = torch.jit.script(Halves())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.halves(x)
        return one * other


class Keeping(nn.Module):
    """Puts another tensor into its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = self.mean * 0.9 + x.detach().mean(0) * 0.1
        return x - self.mean


def _scripted(*modules: nn.Module) -> nn.Module:
    return torch.jit.script(nn.Sequential(*modules))


MODULES: dict[str, Make] = {
    "parameters": lambda: _scripted(nn.Linear(16, 16), nn.GELU(), nn.LayerNorm(16)),
    "buffers": lambda: _scripted(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True)),
    "draws": lambda: _scripted(nn.Linear(16, 16), nn.Dropout(0.3)),
    "traced": lambda: torch.jit.trace(nn.Sequential(nn.Linear(16, 16), nn.Tanh()), torch.randn(64, 16)),
    "function": BiasGelu,
    "several results": OfHalves,
}


class Net(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.between = nn.ModuleList(make() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, between in zip(self.layers, self.between, strict=True):
            x = between(layer(x).tanh().sin())
        return x.sin().square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_bits_and_peak_are_as_promised(make: Make):
    torch.manual_seed(0)
    model, args = Net(make), (torch.randn(64, 16),)
    try:
        schedule = remat_planner.plan(model, args, budget=1, solver="greedy", time_limit=1, verify=False)
    except InfeasibleBudgetError as error:
        schedule = remat_planner.plan(model, args, budget=error.minimum, solver="greedy", time_limit=1, verify=False)
    assert any("runs as it is" in (op.pinned or "") for op in schedule.graph.ops)
    result = remat_planner.verify(model, schedule, args)
    assert result.identical, result.differences
    assert 0.97 * schedule.budget <= result.measured_peak_bytes <= schedule.budget


def test_a_scripted_module_that_is_planned_by_itself_is_refused():
    with pytest.raises(ModelNotSupportedError, match="nothing to plan"):
        remat_planner.trace(_scripted(nn.Linear(4, 4), nn.ReLU()), (torch.randn(2, 4),))


def test_a_script_that_replaces_its_buffer_is_refused_by_name():
    model = nn.Sequential(nn.Linear(16, 16), torch.jit.script(Keeping()))
    with pytest.raises(UnsupportedOperatorError, match=r"Keeping.*assigns another tensor"):
        remat_planner.trace(model, (torch.randn(4, 16),))
    assert model[1].mean.count_nonzero() == 0
