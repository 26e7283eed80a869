"""One tensor as several inputs: part of the form of a call, in the bits and in what the model asks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.apply import planned_call
from remat_planner.tracer import capture
from tests.planner.runtime.planned_net import equal, gradients, planned, replanning


class Distance(nn.Module):
    """Reads both inputs, and asks whether they are one."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.linear, self.asks = nn.Linear(4, 4), asks

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.linear(x))
        return (y * 2 if self.asks and x is target else y - target).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(  # each pair of values once
    ("first", "asks", "trained"), [("xt", False, False), ("xt", True, True), ("xx", True, False), ("xx", False, True)]
)
def test_a_step_for_one_tensor_is_not_one_for_two(asks: bool, trained: bool, first: str):
    torch.manual_seed(0)
    model = Distance(asks)
    eager = copy.deepcopy(model)
    tensors = {name: torch.randn(3, 4).requires_grad_(trained) for name in "xt"}
    calls: list[tuple[int, ...]] = []
    ours: Any = planned(model, tuple(tensors[name] for name in first), replan=replanning(calls))
    for names in ("xx", "xt", "tt", "xx"):
        found = []
        for called, own in ((eager, eager), (ours, model)):
            own.zero_grad()
            for tensor in tensors.values():
                tensor.grad = None
            called(*(tensors[name] for name in names)).backward()
            found.append([*gradients(own), *(tensor.grad for tensor in tensors.values())])
        assert equal(found[1], found[0]), names
    same_step = first == "xt" and not asks and not trained  # then the program for two serves one tensor as well
    assert len(planned_call(ours).programs) == (1 if same_step else 2)
    assert len(calls) == (0 if same_step else 1)


@pytest.mark.slow
def test_a_batch_that_is_given_twice_counts_twice():
    """Other steps of this form may have two tensors, in the same budget."""
    x = torch.randn(3, 4)
    once, twice = (capture(Distance(False), inputs) for inputs in ((x, torch.randn(3, 4)), (x, x)))
    assert sum(twice.constants["inputs"]) == sum(once.constants["inputs"]) == 2 * x.nbytes
    activation = x.clone().requires_grad_()
    assert sum(capture(Distance(False), (activation, activation)).constants["inputs"]) == x.nbytes


@pytest.mark.slow
def test_attention_that_asks_whether_its_inputs_are_one():
    torch.manual_seed(0)
    model, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    eager = copy.deepcopy(model)
    ours = planned(model, (x, x, x))
    operators = planned_call(ours).programs[0].joint.operators
    products = [one for one in operators if one.name in ("aten.mm.default", "aten.addmm.default") and not one.in_backward]
    assert len(products) == 2  # one projection of all three, and the one of the result
    for called in (eager, ours):
        called(x, x, x)[0].square().sum().backward()
    assert equal(gradients(model), gradients(eager))
