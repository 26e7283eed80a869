"""Planned steps with operators of somebody else: eager's bits, within the budget; by example, on copies, recomputed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.tracer import capture
from remat_planner.tracer.functions import FunctionVariesError

Between = Callable[[torch.Tensor], torch.Tensor]


@torch.library.custom_op("tests_custom::without_fake", mutates_args=())
def without_fake(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


without_fake.register_autograd(
    lambda ctx, gradient: gradient * ctx.saved_tensors[0].cos(),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


@torch.library.custom_op("tests_custom::noisy", mutates_args=())
def noisy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand_like(x)


noisy.register_fake(torch.empty_like)
noisy.register_autograd(lambda _, gradient: gradient * 1)
_calls = itertools.count(1)


@torch.library.custom_op("tests_custom::counted", mutates_args=())
def counted(x: torch.Tensor) -> torch.Tensor:
    return x.new_zeros(3 if next(_calls) > 2 else 2)


@torch.library.custom_op("tests_custom::scaled_", mutates_args=("x",))
def scaled_(x: torch.Tensor, by: float) -> torch.Tensor:
    x.mul_(by)
    return x.sum()


scaled_.register_fake(lambda x, by: x.new_empty(()))


@torch.library.custom_op("tests_custom::shift", mutates_args=("xs",))
def shift(xs: list[torch.Tensor], by: float) -> None:
    for x in xs:
        x.add_(by)


@torch.library.custom_op("tests_custom::averaged", mutates_args=("mean",))
def averaged(mean: torch.Tensor, x: torch.Tensor) -> None:
    mean.mul_(0.9).add_(x.mean(0), alpha=0.1)


_library = torch.library.Library("tests_custom", "FRAGMENT")
_library.define("halved_(Tensor(a!) x) -> Tensor(a!)")
_library.impl("halved_", lambda x: x.mul_(0.5), "CompositeExplicitAutograd")


def _with_result(x: torch.Tensor) -> torch.Tensor:
    y = x.detach().clone()
    total = scaled_(y, 0.5)
    return x + y * total


def _list(x: torch.Tensor) -> torch.Tensor:
    one, other = x.detach().clone(), x.detach().sin()
    shift([one, other], 0.5)
    return x * one + other


def _view(x: torch.Tensor) -> torch.Tensor:
    y = x.detach().clone()
    scaled_(y[:, :8], 0.5)
    return x * y


def _alias(x: torch.Tensor) -> torch.Tensor:
    y = x.detach().clone()
    return x * torch.ops.tests_custom.halved_(y) + y


BETWEEN: dict[str, Between] = {
    "without a fake": lambda x: without_fake(x),
    "draws": lambda x: noisy(x),
    "a result too": _with_result,
    "a list": _list,
    "a view": _view,
    "an alias": _alias,
}


class Net(nn.Module):
    def __init__(self, between: Between) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.register_buffer("mean", torch.zeros(16))
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.between(layer(x).tanh())
        averaged(self.mean, x.detach())
        return (x.sin() - self.mean).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_bits_and_peak_are_as_promised(between: Between):
    torch.manual_seed(0)
    model, args = Net(between), (torch.randn(64, 16),)
    schedule = remat_planner.plan(model, args, budget="100%", solver="greedy", time_limit=1, verify=False)
    result = remat_planner.verify(model, schedule, args)
    assert result.identical, result.differences
    assert result.within_budget


@pytest.mark.slow
def test_an_operator_that_repeats_may_be_recomputed_and_one_that_draws_may_not():
    def pins(between: Between) -> list[str | None]:
        graph = remat_planner.trace(Net(between), (torch.randn(4, 16),))
        return [op.pinned for op in graph.ops if op.name.startswith(("without_fake", "noisy"))]

    assert pins(without_fake) == [None] * 3
    assert all("may run twice" in (pinned or "") for pinned in pins(noisy))


@pytest.mark.slow
def test_random_generators_stay_where_they_were():
    model, args = Net(noisy), (torch.randn(4, 16),)
    before = torch.get_rng_state()
    capture(model, args)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_results_of_another_form_than_the_example_are_an_error():
    model = Net(lambda x: x * counted(x.detach()).sum())
    args = (torch.randn(4, 16),)
    schedule = remat_planner.plan(model, args, budget="100%", solver="greedy", time_limit=1, verify=False, costs="h100")
    with pytest.raises(FunctionVariesError, match="counted"):
        remat_planner.apply_schedule(model, schedule)(*args)
