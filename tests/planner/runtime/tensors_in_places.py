"""A model that reads a tensor in Python state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from remat_planner import apply_schedule, plan

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two layers, and between them what a test says."""

    def __init__(self, between: Callable[[Any, torch.Tensor], torch.Tensor], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = between
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.between(self, torch.tanh(self.a(x)))))


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def planned(model: nn.Module, budget: str = "100%") -> nn.Module:
    return apply_schedule(model, plan(model, (X,), budget=budget, solver="none", loss=mean_square, verify=False))


def step(model: nn.Module) -> list[torch.Tensor]:
    """Loss and gradients of one step."""
    model.zero_grad()
    loss = mean_square(model(X))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    assert all(map(torch.equal, ours, theirs))


def ones() -> torch.Tensor:
    return torch.ones(4)


def twos() -> torch.Tensor:
    return torch.full((4,), 2.0)


def moved(m: Any, h: torch.Tensor) -> torch.Tensor:
    average = m.s if isinstance(m.s, torch.Tensor) else m.s[0]
    average.mul_(0.5).add_(h.detach().mean(0))
    return h * average
