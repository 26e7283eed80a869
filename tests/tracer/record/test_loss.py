"""One function finds the model's own loss, for the capture and for real steps alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from remat_planner.planner.measurement import run_backward
from remat_planner.tracer.record import loss_of_output


@pytest.mark.parametrize(
    "wrap",
    [
        lambda loss: loss,
        lambda loss: SimpleNamespace(loss=loss),
        lambda loss: {"loss": loss, "logits": torch.ones(3)},
    ],
    ids=["scalar", "attribute", "entry"],
)
def test_the_loss_in_an_output(wrap: Any):
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * 2).sum()
    output = wrap(loss)
    assert loss_of_output(output) is loss
    assert run_backward(output, None) is loss
    assert torch.equal(weight.grad, torch.full((3,), 2.0))


@pytest.mark.parametrize("output", [torch.ones(3), (torch.ones(()),), {"logits": torch.ones(3)}, {"loss": 1.0}, None])
def test_an_output_without_a_loss(output: Any):
    assert loss_of_output(output) is None
