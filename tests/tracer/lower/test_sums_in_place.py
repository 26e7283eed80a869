"""Which sums of gradients take no memory of their own, in the planned step and in eager."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from remat_planner.schedules import Graph
from remat_planner.tracer import capture, lower

_BYTES = 4 * 4 * 4


class Uses(nn.Module):
    """A weight of 4 x 4 in an expression of it and the input."""

    def __init__(self, expression: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.expression = expression

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expression(x, self.weight).square().mean()


def graph_of(expression: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Graph:
    return lower(capture(Uses(expression), (torch.ones(4, 4),))).graph


def sums_that_allocate(graph: Graph) -> int:
    """Additions in the backward that allocate; those in place are pinned besides."""
    sums = [i for i, op in enumerate(graph.ops) if op.kind == "add" and op.phase == "backward"]
    in_place = [i for i in sums if not graph.allocated[i]]
    assert all(graph.ops[i].pinned for i in in_place)
    return len(sums) - len(in_place)


@pytest.mark.parametrize(
    ("expression", "allocating", "in_eager"),
    [
        # The gradient of a linear layer is a view in eager, t() of the product's, and the product itself in the plan.
        (lambda x, w: F.linear(F.linear(x, w).tanh(), w), 0, 1),
        (lambda x, w: F.linear(F.linear(F.linear(x, w).tanh(), w).tanh(), w), 0, 1),
        (lambda x, w: (x @ w).tanh() @ w, 0, 0),
        # The first term is a view in the plan too.
        (lambda x, w: (x @ w).tanh() * w.view(2, 8).sin().view(4, 4), 1, 0),
        # The first gradient of the weight is read by the backward of tanh too; their sum by nothing else.
        (lambda x, w: (x @ w + w).tanh() + w, 1, 0),
    ],
    ids=["two uses", "three uses", "a product", "a view", "a first term with two readers"],
)
def test_autograd_adds_into_a_first_term_that_nothing_else_refers_to(expression, allocating, in_eager):
    graph = graph_of(expression)
    assert sums_that_allocate(graph) == allocating
    assert sum(op.eager_workspace for op in graph.ops if op.kind == "add") == in_eager * _BYTES


def test_the_storage_of_a_sum_in_place_is_left_out():
    graph = graph_of(lambda x, w: F.linear(F.linear(x, w).tanh(), w))
    assert {value.storage for value in graph.values} == set(range(len(graph.storages)))
