"""The first term of a sum of gradients keeps no larger storage."""

from __future__ import annotations

import torch
from torch import nn

from remat_planner.tracer import capture


class Tokens(nn.Module):
    """Each layer appends the same token."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))
        self.token = nn.Parameter(torch.ones(1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([layer(x).relu(), self.token])
        return x.square().mean()


def test_a_first_term_that_is_part_of_an_activations_gradient_is_copied():
    joint = capture(Tokens(3), (torch.ones(16, 8),))
    token = next(g for g in joint.gradients if joint.parameters[g.index].name == "token")
    first, *others = token.contributions
    assert first.meta["val"].untyped_storage().nbytes() == 8 * 4
    assert all(term.meta["val"].untyped_storage().nbytes() > 8 * 4 for term in others)
    assert len(token.sums) == 2


def test_a_gradient_with_one_term_is_left_as_it_is():
    joint = capture(Tokens(1), (torch.ones(16, 8),))
    token = next(g for g in joint.gradients if joint.parameters[g.index].name == "token")
    assert token.node.meta["val"].untyped_storage().nbytes() == 17 * 8 * 4  # as in eager
