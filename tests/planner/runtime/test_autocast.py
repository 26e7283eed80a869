"""``torch.autocast`` around the step or in it: the casts that eager runs, and no others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.tracer.errors import ModelNotSupportedError
from tests.tracer.cases import Written, linear, mean_square, noise


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def attention(m: Written, x: torch.Tensor) -> torch.Tensor:
    """With dropout, a CPU computes it in float32 by operators that autocast would run in bfloat16, were they called alone."""
    q = m.a(x).view(2, 4, 8, 4)
    return mean_square(F.scaled_dot_product_attention(q, q, q, dropout_p=0.1).float())


def switched_off_inside(m: Written, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x).float()
    with torch.autocast("cpu", enabled=False):
        return mean_square(m.b(h.mul(2).add_(1)))


def weight_read_several_times(m: Written, x: torch.Tensor) -> torch.Tensor:
    """The cache of autocast gives all readers one cast, so that their gradients are summed in bfloat16."""
    for _ in range(3):
        x = torch.tanh(m.a(x))
    return mean_square(x.float())


def built(forward: Callable[..., torch.Tensor], *, inside: bool) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)

    def within(m: Written, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return forward(m, x)

    return Written(within if inside else forward, a=linear(), b=linear()), noise(2, 8, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forward", "inside", "cached"),
    [
        *((attention, True, True), (attention, False, False), (switched_off_inside, True, False)),
        *((switched_off_inside, False, True), (weight_read_several_times, True, True)),
        *((weight_read_several_times, False, True), (weight_read_several_times, False, False)),
    ],
)
def test_the_casts_are_eagers(forward: Callable[..., torch.Tensor], inside: bool, cached: bool):
    model, x = built(forward, inside=inside)
    eager = copy.deepcopy(model)
    torch.set_autocast_cache_enabled(cached)
    try:
        around = nullcontext() if inside else torch.autocast("cpu", dtype=torch.bfloat16)
        with around:
            schedule = remat_planner.plan(model, (x,), budget="100%", solver="greedy")
            found = remat_planner.verify(model, schedule, (x,))
            assert found.identical, found.differences
            assert found.within_budget
            planned = remat_planner.apply_schedule(model, schedule)
        for module in (planned, eager):
            torch.manual_seed(1)
            with around:
                loss = module(x)
            loss.backward()
        assert all(
            torch.equal(p.grad, q.grad)
            for p, q in zip(planned.parameters(), eager.parameters(), strict=True)
            if q.grad is not None
        )
    finally:
        torch.set_autocast_cache_enabled(True)


@pytest.mark.slow
def test_an_autocast_without_its_cache_is_another_form(caplog: pytest.LogCaptureFixture):
    model, x = built(weight_read_several_times, inside=False)
    eager = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        planned = remat_planner.apply_schedule(model, remat_planner.plan(model, (x,), budget="1MB", solver="greedy"))
    for module in (planned, eager):
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            loss = module(x)
        loss.backward()
    assert "autocast to bfloat16, without its cache on cpu" in caplog.text
    assert torch.equal(planned.a.weight.grad, eager.a.weight.grad)


@pytest.mark.slow
def test_a_refused_capture_leaves_no_fakes_in_the_cache():
    hidden = linear()
    model = Written(lambda m, x: mean_square(m.a(x) @ hidden.weight), a=linear())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ModelNotSupportedError, match="no parameter of the model"):
            remat_planner.plan(model, (noise(),), budget="1MB")
        assert type(noise() @ hidden.weight) is torch.Tensor
