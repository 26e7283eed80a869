"""Parameters that become other tensors, lie elsewhere, or are tied after planning."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from remat_planner import ChangedInBetweenError, TransformError
from tests.planner.runtime.planned_net import equal, gradients, planned


@pytest.fixture
def both() -> tuple[nn.Sequential, nn.Sequential, torch.Tensor]:
    """A model, a planned copy that has trained a step, and an input."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), torch.randn(3, 4)
    ours = planned(copy.deepcopy(model), (x,))
    ours(x).sum().backward()
    ours.zero_grad()
    return model, ours, x


def test_tensors_are_exchanged_as_in_eager(both: tuple[nn.Sequential, nn.Sequential, torch.Tensor]):
    model, ours, x = both
    other = torch.randn(4, 4)
    for trained in (model, ours):
        torch.utils.swap_tensors(trained[0].weight, nn.Parameter(other.clone()))
        trained(x).square().sum().backward()
    assert equal(gradients(model), gradients(ours))


@pytest.mark.slow
def test_weights_that_are_tied_later_are_one(both: tuple[nn.Sequential, nn.Sequential, torch.Tensor]):
    model, ours, x = both
    for trained in (model, ours):
        trained[2].weight = trained[0].weight
        trained(x).square().sum().backward()
    assert ours[2].weight is ours[0].weight
    assert equal(gradients(model), gradients(ours))


def test_data_that_is_assigned_before_the_backward_is_a_change(both: tuple[nn.Sequential, nn.Sequential, torch.Tensor]):
    _, ours, x = both
    loss = ours(x).square().sum()
    ours[2].weight.data = ours[2].weight.data * 2
    with pytest.raises(ChangedInBetweenError, match=r"parameter 2\.weight"):
        loss.backward()


def test_a_backward_for_many_gradients_at_once_is_refused(both: tuple[nn.Sequential, nn.Sequential, torch.Tensor]):
    _, ours, x = both
    output = ours(x)
    many = torch.eye(3).unsqueeze(-1).expand(3, 3, 4)
    with pytest.raises(TransformError, match="is_grads_batched"):
        torch.autograd.grad(output, list(ours.parameters()), many, is_grads_batched=True)
