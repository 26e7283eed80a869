"""Which sums of gradients take no memory of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from remat_planner.schedules import Graph
from remat_planner.tracer import capture, lower


class Uses(nn.Module):
    """A weight of 4 x 4 in an expression of it and the input."""

    def __init__(self, expression: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.expression = expression

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expression(x, self.weight).square().mean()


def graph_of(expression: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *, in_place: bool = True) -> Graph:
    return lower(capture(Uses(expression), (torch.ones(4, 4),)), sums_in_place=in_place).graph


def sums_that_allocate(graph: Graph) -> int:
    """Additions in the backward that allocate; those in place are pinned besides."""
    sums = [i for i, op in enumerate(graph.ops) if op.kind == "add" and op.phase == "backward"]
    in_place = [i for i in sums if not graph.allocated[i]]
    assert all(graph.ops[i].pinned for i in in_place)
    return len(sums) - len(in_place)


@pytest.mark.parametrize(
    ("expression", "allocating"),
    [
        (lambda x, w: F.linear(F.linear(x, w).tanh(), w), 0),
        (lambda x, w: F.linear(F.linear(F.linear(x, w).tanh(), w).tanh(), w), 0),
        # The first gradient of the weight is read by the backward of tanh too; their sum by nothing else.
        (lambda x, w: (x @ w + w).tanh() + w, 1),
    ],
    ids=["two uses", "three uses", "a first term with two readers"],
)
def test_autograd_adds_into_a_first_term_that_nothing_else_reads(expression, allocating):
    assert sums_that_allocate(graph_of(expression)) == allocating


def test_a_sum_that_becomes_another_gradient_later_has_a_storage_of_its_own():
    graph = graph_of(lambda x, w: F.linear(F.linear(x, w).tanh(), w), in_place=False)
    assert sums_that_allocate(graph) == 1


def test_the_storage_of_a_sum_in_place_is_left_out():
    def expression(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, w).tanh(), w)

    both = [graph_of(expression, in_place=in_place) for in_place in (True, False)]
    assert len(both[0].storages) == len(both[1].storages) - 1
    assert {value.storage for value in both[0].values} == set(range(len(both[0].storages)))
