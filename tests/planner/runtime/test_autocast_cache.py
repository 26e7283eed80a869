"""Two calls of a planned module under one autocast, whose cache would give both the same casts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.errors import SharedCastError
from remat_planner.planner.runtime.autocast_cache import current_cache


def autocast(*, cached: bool = True) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cached)


@pytest.fixture(params=[True, False], ids=["cached", "uncached"])
def cached(request: pytest.FixtureRequest) -> bool:
    return request.param


def planned(cached: bool) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh())
    x = torch.randn(64, 32)
    with autocast(cached=cached):
        schedule = remat_planner.plan(model, (x,), budget="100%")
    return copy.deepcopy(model), remat_planner.apply_schedule(model, schedule), x


def gradients(model: nn.Module, losses: Callable[[nn.Module], list[torch.Tensor]], *, together: bool) -> list[torch.Tensor]:
    model.zero_grad()
    found = losses(model)
    for loss in [torch.stack(found).sum()] if together else found:
        loss.backward()
    return [p.grad for p in model.parameters()]


def under_one(cached: bool, x: torch.Tensor) -> Callable[[nn.Module], list[torch.Tensor]]:
    def losses(model: nn.Module) -> list[torch.Tensor]:
        with autocast(cached=cached):
            return [model(x).float().square().mean(), model(x.flip(0) * 2).float().square().mean()]

    return losses


def under_one_each(cached: bool, x: torch.Tensor) -> Callable[[nn.Module], list[torch.Tensor]]:
    def losses(model: nn.Module) -> list[torch.Tensor]:
        found = []
        for inputs in (x, x.flip(0) * 2):
            with autocast(cached=cached):
                found.append(model(inputs).float().square().mean())
        return found

    return losses


@pytest.mark.slow
@pytest.mark.parametrize("calls", [under_one, under_one_each])
@pytest.mark.parametrize("together", [True, False], ids=["one_backward", "two_backwards"])
def test_bits_are_eagers_or_the_backward_says_why_not(calls, together, cached):
    eager, model, x = planned(cached)
    shared = calls is under_one and together and cached
    with pytest.raises(SharedCastError, match="cache_enabled=False") if shared else nullcontext():
        found = gradients(model, calls(cached, x), together=together)
        assert all(map(torch.equal, found, gradients(eager, calls(cached, x), together=together)))


def test_the_refusal_is_needed():
    model = nn.Linear(32, 32)
    x = torch.randn(64, 32)
    assert not all(
        map(
            torch.equal,
            gradients(model, under_one(True, x), together=True),
            gradients(model, under_one_each(True, x), together=True),
        )
    )


def test_a_cache_lasts_until_the_outermost_exit():
    with autocast():
        first = current_cache("cpu")
        with autocast():
            assert current_cache("cpu") is first
        assert current_cache("cpu") is first
    with autocast():
        assert current_cache("cpu") is not first
