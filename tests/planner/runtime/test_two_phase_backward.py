"""Gradients of the inputs first and those of the weights later, as zero-bubble pipelines take them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.codegen import cuts
from remat_planner.planner.errors import BackwardTwiceError
from tests.planner.runtime.planned_net import equal, planned

pytest.importorskip("torch.distributed.pipelining")


class Stage(nn.Module):
    """Residual layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


def built(calls_between_cuts: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Stage, Stage, torch.Tensor]:
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", calls_between_cuts)
    torch.manual_seed(0)
    model, x = Stage(), torch.randn(3, 6)
    eager = copy.deepcopy(model)
    return planned(model, (x.clone().requires_grad_(),)), model, eager, x


@pytest.mark.slow
@pytest.mark.parametrize("calls_between_cuts", [3, 400])
def test_a_zero_bubble_stage_gets_eagers_gradients(calls_between_cuts: int, monkeypatch: pytest.MonkeyPatch):
    from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

    ours, model, eager, x = built(calls_between_cuts, monkeypatch)
    found = []
    for called, own in ((eager, eager), (ours, model)):
        for microbatch in range(2):
            inputs = (x + microbatch).requires_grad_()
            output = called(inputs)
            gradients, groups = stage_backward_input([output], [torch.ones_like(output)], [inputs], own.parameters())
            assert all(parameter.grad is None for parameter in own.parameters()) is (microbatch == 0)
            stage_backward_weight(own.parameters(), groups)
        found.append([*gradients, *(parameter.grad for parameter in own.parameters())])
    assert all(gradient is not None for gradient in found[0])
    assert equal(found[1], found[0])


@pytest.mark.slow
@pytest.mark.parametrize("calls_between_cuts", [3, 400])
def test_the_input_first_and_then_a_whole_backward(calls_between_cuts: int, monkeypatch: pytest.MonkeyPatch):
    ours, model, eager, x = built(calls_between_cuts, monkeypatch)
    found = []
    for called, own in ((eager, eager), (ours, model)):
        inputs = x.clone().requires_grad_()
        loss = called(inputs).square().sum()
        (first,) = torch.autograd.grad(loss, inputs, retain_graph=True)
        loss.backward(inputs=list(own.parameters()))
        found.append([first, *(parameter.grad for parameter in own.parameters())])
    assert equal(found[1], found[0])


@pytest.mark.slow
def test_a_backward_that_begins_in_the_middle_is_refused(monkeypatch: pytest.MonkeyPatch):
    ours, model, _, x = built(3, monkeypatch)
    output = ours(x.clone().requires_grad_())
    node = output.grad_fn.next_functions[0][0]
    with pytest.raises(BackwardTwiceError, match="in the middle"):
        torch.autograd.grad([torch.autograd.graph.GradientEdge(node, 0)], [model.layers[3].weight], [torch.empty(0)])
