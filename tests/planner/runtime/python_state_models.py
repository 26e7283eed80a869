"""A model with Python state, trained beside eager."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from remat_planner import apply_schedule, plan

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


SETTINGS = {"gain": 1.0}


class Net(nn.Module):
    """Two layers, and whatever a test hangs on it."""

    def __init__(self, forward: Callable[..., Any], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.function = forward
        for name, value in attributes.items():
            setattr(self, name, copy.deepcopy(value))

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


Step = Callable[[Net, int], torch.Tensor]


def trained(model: nn.Module, step: Step) -> list[torch.Tensor | None]:
    """Loss and gradients of three steps, and the parameters at the end."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen: list[torch.Tensor | None] = []
    for k in range(3):
        optimizer.zero_grad()
        loss = step(model, k)  # type: ignore[arg-type]
        loss.backward()
        seen += [loss.detach().clone(), *(None if p.grad is None else p.grad.clone() for p in model.parameters())]
        optimizer.step()
    return seen + [p.detach().clone() for p in model.parameters()]


def assert_trains_as_eager(make: Callable[[], Net], args: Callable[[], tuple[Any, ...]], step: Step) -> None:
    torch.manual_seed(0)
    eager = make()
    torch.manual_seed(0)
    model = make()
    expected = trained(eager, step)
    planned = apply_schedule(model, plan(model, args(), budget="100%", solver="none", loss=mean_square))
    for ours, theirs in zip(trained(planned, step), expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


def mean_square(output: Any) -> torch.Tensor:
    return (output if isinstance(output, torch.Tensor) else output["y"]).square().mean()


def hidden(m: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(m.a(x))
