"""A loss with state of its own: planning leaves it as it was, and counts the gradients of its parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner import plan
from remat_planner.tracer.errors import LossError

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


class Center(nn.Module):
    """Distances from learned centers, with an average and a list of losses."""

    def __init__(self) -> None:
        super().__init__()
        self.centers, self.norm = nn.Parameter(torch.ones(50, 4)), nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("seen", torch.zeros(()))
        self.losses: list[torch.Tensor] = []

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        self.mean = self.mean * 0.9 + output.detach().mean(0) * 0.1
        self.seen += 1
        loss = (self.norm(output) - self.centers[0] - self.mean).square().mean()
        self.losses.append(loss.detach())
        return loss


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("wrapped", [False, True], ids=["a module", "a function"])
def test_planning_leaves_a_loss_as_it_was(wrapped: bool, verify: bool):
    center = Center()
    before, mean = copy.deepcopy(center.state_dict()), center.mean
    center.centers.grad = gradient = torch.ones(50, 4)
    loss: Any = (lambda output: center(output)) if wrapped else center
    # Verified: 800 bytes of gradients of the centers are within the budget.
    plan(nn.Linear(6, 4), (X,), loss=loss, budget="100%", solver="none", verify=verify)
    assert center.mean is mean
    assert center.losses == []
    assert center.centers.grad is gradient
    assert torch.equal(gradient, torch.ones(50, 4))
    assert all(torch.equal(value, before[name]) for name, value in center.state_dict().items())


def test_gradients_of_the_loss_are_in_the_peak():
    center, model = Center(), nn.Sequential(nn.Linear(6, 300), nn.Linear(300, 4))

    def peak() -> int:
        return plan(model, (X,), loss=center, budget="100%", solver="none", verify=False).peak_bytes

    with_centers = peak()
    center.centers.requires_grad_(False)
    assert with_centers - peak() == 800


def test_a_check_in_a_loss_is_passed():
    def loss(output: torch.Tensor) -> torch.Tensor:
        if torch.isnan(output).any():
            raise ValueError("not a number")
        return output.square().mean()

    assert plan(nn.Linear(6, 4), (X,), loss=loss, budget="100%", solver="none").peak_bytes


def test_a_loss_that_steps_an_optimizer_is_refused():
    critic = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(critic.parameters(), 0.1, momentum=0.9)

    def loss(output: torch.Tensor) -> torch.Tensor:
        critic(output.detach()).mean().backward()
        optimizer.step()
        return critic(output).mean()

    with pytest.raises(LossError, match=r"steps an optimizer \(SGD\)"):
        plan(nn.Linear(6, 4), (X,), loss=loss, budget="100%", solver="none")
    assert critic.weight.grad is None
    assert not optimizer.state
