"""An update changes every parameter that has a gradient, in the same way each time."""

from __future__ import annotations

import torch
from torch import nn

from remat_planner.planner.measurement.parameter_update import update_parameters


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Parameter(torch.full((3,), -2.0))
        self.zero = nn.Parameter(torch.zeros(3))
        self.bfloat = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
        self.spiral = nn.Parameter(torch.full((3,), 1 + 1j))
        self.without = nn.Parameter(torch.ones(3))


def updated() -> Several:
    model = Several()
    for name, p in model.named_parameters():
        p.grad = None if name == "without" else torch.ones_like(p)
    update_parameters(model)
    return model


def test_parameters_with_a_gradient_change_a_little_and_alike():
    before, model, again = Several(), updated(), updated()
    for name, p in model.named_parameters():
        old = before.get_parameter(name)
        assert p.grad is None
        assert torch.equal(p, old) is (name == "without")
        assert torch.allclose(p, old, rtol=0.02, atol=0.02)
        assert torch.equal(p, again.get_parameter(name))


def test_sparse_gradients_are_no_hindrance():
    rows = nn.Embedding(4, 2, sparse=True)
    before = rows.weight.detach().clone()
    rows(torch.tensor([1])).sum().backward()
    update_parameters(rows)
    assert not torch.equal(rows.weight, before)
    assert rows.weight.grad is None
