"""Inputs of subclasses of torch.Tensor: planned where they compute as plain ones do, refused by name where not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.tracer.errors import InputsDoNotFitError


class Named(torch.Tensor):
    """Carries metadata, as images of data loaders do."""


class Halving(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        return result / 2 if func is torch.nn.functional.linear else result


def _mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def _planned(x: torch.Tensor) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    asked: Any = {"loss": _mean_square, "budget": "100%", "solver": "greedy", "time_limit": 1}
    return model, remat_planner.plan(model, (x,), **asked)


def test_a_subclass_that_carries_metadata_trains_as_plain_tensors_do():
    x = torch.randn(4, 8).as_subclass(Named).requires_grad_()
    model, schedule = _planned(x)
    _mean_square(model(x)).backward()
    expected = [x.grad, *(p.grad for p in model.parameters())]
    x.grad = None
    model.zero_grad()
    planned = remat_planner.apply_schedule(model, schedule, loss=_mean_square)
    _mean_square(planned(x)).backward()
    assert all(map(torch.equal, expected, [x.grad, *(p.grad for p in model.parameters())]))
    plain = x.detach().as_subclass(torch.Tensor).requires_grad_()
    assert torch.equal(planned(plain), planned(x))  # one program for both


def test_a_subclass_that_changes_results_is_refused_by_name():
    with pytest.raises(InputsDoNotFitError, match=r"Halving.*as_subclass"):
        _planned(torch.randn(4, 8).as_subclass(Halving))
