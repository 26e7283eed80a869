"""Losses from which no backward can start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from remat_planner.tracer import capture
from remat_planner.tracer.errors import DataDependentError, LossError
from tests.tracer.cases import Written, linear, noise


@pytest.mark.parametrize(
    ("loss", "shape", "text"),
    [
        (lambda output: output, (4, 16), "one number"),
        (lambda output: output.sum().item() * 0 + 1.0, None, None),
        (lambda output: 3.0, None, "float"),
        (lambda output: output.detach().sum(), (), "detached"),
        (lambda output: torch.zeros((), requires_grad=True) + 1, (), "no output"),
    ],
)
def test_a_loss_that_is_no_differentiable_scalar_is_refused(loss: Any, shape: tuple[int, ...] | None, text: str | None):
    if text is None:
        with pytest.raises(DataDependentError, match="the loss reads a value"):
            capture(linear(), (noise(),), loss=loss)
        return
    with pytest.raises(LossError, match=text) as caught:
        capture(linear(), (noise(),), loss=loss)
    assert caught.value.shape == shape


def test_a_models_own_loss_that_is_no_scalar_is_refused():
    with pytest.raises(LossError, match=r"\[4, 16\]"):
        capture(Written(lambda m, x: {"loss": m.a(x)}, a=linear()), (noise(),))
