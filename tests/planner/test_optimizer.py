"""The counted state is the state that a real step leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from planner.errors import OptimizerError
from planner.optimizer import optimizer_state_bytes


def _model() -> nn.Module:
    model = nn.Sequential(nn.Linear(10, 20), nn.LayerNorm(20), nn.Linear(20, 3))
    model[1].requires_grad_(False)
    return model


def _state_after_a_step(optimizer: torch.optim.Optimizer, model: nn.Module) -> int:
    model(torch.randn(4, 10)).sum().backward()
    optimizer.step()
    return sum(
        t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)
    )


@pytest.mark.parametrize(
    "name", ["AdamW", "Adam", "SGD", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Rprop", "Adadelta", "ASGD", "Adafactor"]
)
def test_by_name(name: str) -> None:
    model = _model()
    counted = optimizer_state_bytes(name.lower(), model.parameters())
    assert counted == _state_after_a_step(getattr(torch.optim, name)(p for p in model.parameters() if p.requires_grad), model)


def test_an_instance_counts_with_its_groups_and_settings() -> None:
    model = _model()
    groups = [{"params": model[0].parameters(), "momentum": 0.9}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    counted = optimizer_state_bytes(optimizer, model.parameters())
    assert counted == (10 * 20 + 20) * 4
    assert not optimizer.state
    assert counted == _state_after_a_step(optimizer, model)
    amsgrad = torch.optim.AdamW(model.parameters(), amsgrad=True)
    assert optimizer_state_bytes(amsgrad, []) == _state_after_a_step(amsgrad, model)


def test_large_parameters_take_no_memory() -> None:
    with torch.device("meta"):
        model = nn.Linear(200_000, 200_000, bias=False)
    assert optimizer_state_bytes("adamw", model.parameters()) == 2 * 200_000 * 200_000 * 4 + 4


def test_refusals() -> None:
    with pytest.raises(OptimizerError, match=r"adamw.*sgd"):
        optimizer_state_bytes("adamw9", _model().parameters())
    with pytest.raises(OptimizerError, match="LBFGS"):
        optimizer_state_bytes("lbfgs", _model().parameters())
