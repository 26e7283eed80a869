"""A loss of the output alone, and one that gets the batch too."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import LossError, LossRaisedError
from remat_planner.tracer.record import loss_of_step


def _both(output: torch.Tensor, batch: Any) -> Any:
    return output, batch


@pytest.mark.parametrize(
    ("args", "kwargs", "batch"),
    [((1,), {}, 1), ((1, 2), {}, (1, 2)), ((), {"a": 1}, {"a": 1}), ((1,), {"a": 2}, ((1,), {"a": 2}))],
)
def test_the_batch_is_what_the_model_is_called_with(args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any):
    of_output = loss_of_step(_both, args, kwargs)
    assert of_output is not None
    assert of_output(0) == (0, batch)
    assert of_output.__qualname__ == "_both"


def test_a_loss_of_the_output_alone_stays_itself():
    def loss(output: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return scale * output

    assert loss_of_step(loss, (1,), {}) is loss
    assert loss_of_step(None, (1,), {}) is None
    module = nn.MSELoss()  # an object that is called
    of_output = loss_of_step(module, (torch.ones(2),), {})
    assert of_output is not None
    assert of_output(torch.zeros(2)) == 1
    half = functools.partial(loss, scale=0.5)
    assert loss_of_step(half, (1,), {}) is half


def test_the_batch_has_no_history():
    x = torch.ones(2, requires_grad=True)
    of_output = loss_of_step(_both, (x,), {})
    assert of_output is not None
    assert not of_output(0)[1].requires_grad


def test_more_arguments_are_refused():
    with pytest.raises(LossError, match=r"needs 3 arguments.*lambda output, batch"):
        loss_of_step(lambda a, b, c: a, (1,), {})


def test_an_error_of_the_loss_names_the_loss():
    model, x, target = nn.Linear(4, 2), torch.randn(8, 4), torch.randn(3, 2)
    with pytest.raises(LossRaisedError, match=r"test_loss_call\.py:\d+: the loss raised RuntimeError") as caught:
        capture(model, (x,), loss=lambda output: (output - target).square().mean())
    assert isinstance(caught.value.__cause__, RuntimeError)
