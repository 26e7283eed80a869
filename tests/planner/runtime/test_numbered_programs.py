"""Numbers that differ in each step, among the inputs and in attributes: captured once, with the bits of eager."""

from __future__ import annotations

import copy
import logging
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.apply import planned_call

WIDTH = 6


class Net(nn.Module):
    """Does ``compute(self, hidden, number, self.scale)`` between two layers."""

    def __init__(self, compute):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.scale, self.compute = 0.5, compute

    def forward(self, x, number):
        return self.second(self.compute(self, self.first(x), number, self.scale)).square().mean()


def updates(self, h, a, b):
    """Leaves a running mean."""
    with torch.no_grad():
        self.mean.mul_(b).add_(h.mean(0), alpha=1 - b)
    return h - a * self.mean


class Reversed(torch.autograd.Function):
    """Turns the gradient round."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.neg() * ctx.share, None


@lru_cache
def cached(number):
    return 2 * number


COMPUTED_AGAIN = {
    "arithmetic": lambda _, h, a, b: (a * h + (1 - a) * h.tanh()) / (b + 1) - b**2,
    "quotient": lambda _, h, a, b: h / (b + 0.1) + 1.0 / (a + 2),
    "attribute": lambda _, h, a, b: F.softmax(h / (b + 2), -1) * a,
    "in place": lambda _, h, a, b: h.mul(2).add_(h, alpha=a).mul_(b),
    "buffer": updates,
    "branch": lambda _, h, a, b: h * 3 if a > 0.55 else h.exp() * b,
    "smaller": lambda _, h, a, b: h * min(a, 0.6) + max(b, 0.2),
    "gradient": lambda _, h, a, b: Reversed.apply(h, a) * b,
    "isinstance": lambda _, h, a, b: h * a if isinstance(a, float) and type(b) is float else h,
}
MAYBE_AGAIN = {
    "clamp": lambda _, h, a, b: h.clamp(min=-b, max=a),
    "power": lambda _, h, a, b: h.abs().add(0.1).pow(a + 1) * b,
    "full": lambda _, h, a, b: h * torch.full((WIDTH,), a) + b,
    "tensor": lambda _, h, a, b: h * torch.tensor(a) * b,
    "filled": lambda _, h, a, b: h.masked_fill(h > b, a),
    "where": lambda _, h, a, b: torch.where(h > a, h, b),
    "lerp": lambda _, h, a, b: torch.lerp(h, h.tanh(), a) * b,
    "dropout": lambda _, h, a, b: F.dropout(h, abs(a) / 2) * b,
    "slope": lambda _, h, a, b: F.leaky_relu(h, a) + F.smooth_l1_loss(h, h.tanh(), beta=abs(b) + 0.1),
    "norm": lambda _, h, a, b: F.layer_norm(h, (WIDTH,), eps=abs(a) + 1e-5) * b,
    "key": lambda _, h, a, b: h * {0.5: 1.0}.get(a, 2.0) * b,
    "cache": lambda _, h, a, b: h * cached(a) * b,
    "text": lambda _, h, a, b: h * len(f"{a}") * b,
    "integer": lambda _, h, a, b: h * int(10 * a) + round(b, 1),
    "sizes": lambda _, h, a, b: h[:, : int(a * WIDTH) + 1].sum() * h + b,
    "random": lambda _, h, a, b: h + a * torch.randn_like(h) * b,
    "uniform": lambda _, h, a, b: h + torch.empty_like(h).uniform_(-a, a + 1) * b,
    "power of itself": lambda _, h, a, b: h * a**b if a >= 0 else h,
}
NUMBERS = (0.5, 0.6, 0.7, 0.25, 0.0, 1.0, 0.9, -0.5, 2.0, 0.3)


def step(model, x, number, scale, seed):
    """What a training step leaves."""
    model.scale = scale
    model.zero_grad()
    torch.manual_seed(seed)
    loss = model(x, number)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters()), model.mean.clone(), torch.rand(1)]


def trained_alike(compute):
    """The planned model and whether each step left the bits of eager's."""
    torch.manual_seed(0)
    model, x = Net(compute), torch.randn(4, WIDTH)
    eager = copy.deepcopy(model)
    schedule = remat_planner.plan(model, (x, NUMBERS[0]), budget="120%", solver="none", verify=False)
    planned = remat_planner.apply_schedule(model, schedule)
    alike = [
        all(map(torch.equal, step(eager, x, number, 1 - number / 3, k), step(planned, x, number, 1 - number / 3, k)))
        for k, number in enumerate(NUMBERS)
    ]
    return planned, alike


def of_numbers(planned):
    """How many of the programs run with other numbers than those of their schedule's capture."""
    return sum(program.is_larger for program in planned_call(planned).programs)


@pytest.mark.slow
@pytest.mark.parametrize("compute", COMPUTED_AGAIN.values(), ids=COMPUTED_AGAIN)
def test_one_capture_is_for_all_numbers(compute):
    planned, alike = trained_alike(compute)
    assert all(alike)
    assert of_numbers(planned) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("compute", MAYBE_AGAIN.values(), ids=MAYBE_AGAIN)
def test_every_number_has_eagers_bits(compute):
    assert all(trained_alike(compute)[1])


@pytest.mark.slow
def test_nothing_is_captured_after_the_second_change(caplog):
    torch.manual_seed(0)
    model, x = Net(COMPUTED_AGAIN["arithmetic"]), torch.randn(4, WIDTH)
    schedule = remat_planner.plan(model, (x, 0.5), budget="120%", solver="none", verify=False)
    planned = remat_planner.apply_schedule(model, schedule)
    for number in (0.5, 0.6, 0.7):
        step(planned, x, number, number, 0)
    caplog.clear()
    with caplog.at_level(logging.INFO, "remat_planner"):
        for k in range(40):
            step(planned, x, 0.1 + k / 50, k / 60, 0)
    assert not caplog.records


@pytest.mark.slow
def test_a_changed_number_that_was_constant_so_far_is_seen():
    torch.manual_seed(0)
    model, x = Net(COMPUTED_AGAIN["arithmetic"]), torch.randn(4, WIDTH)
    eager = copy.deepcopy(model)
    schedule = remat_planner.plan(model, (x, 0.5), budget="120%", solver="none", verify=False)
    planned = remat_planner.apply_schedule(model, schedule)
    for k, scale in enumerate((0.5, 0.5, 0.5, 0.5, 0.7, 0.8, 1, True, 0.9)):
        assert all(map(torch.equal, step(eager, x, k / 9, scale, k), step(planned, x, k / 9, scale, k))), (k, scale)


@pytest.mark.slow
@pytest.mark.parametrize("third", [0.5, 0.0, 1.0, 2.0])
def test_numbers_that_are_equal_by_chance_in_the_capture(third):
    torch.manual_seed(0)
    compute = lambda _, h, a, b: a * h + (1 - a) * h.tanh() + b * h + a * h.sin() + (h * a) * 2.0  # noqa: E731
    model, x = Net(compute), torch.randn(4, WIDTH)
    eager = copy.deepcopy(model)
    schedule = remat_planner.plan(model, (x, 0.3), budget="120%", solver="none", verify=False)
    planned = remat_planner.apply_schedule(model, schedule)
    for k, (number, scale) in enumerate(((0.3, 0.2), (0.4, 0.6), (third, third), (0.6, 0.1), (0.7, 0.8), (0.45, 0.45))):
        assert all(map(torch.equal, step(eager, x, number, scale, k), step(planned, x, number, scale, k))), number


@pytest.mark.slow
def test_numbers_and_sizes_change_together(caplog):
    torch.manual_seed(0)
    model = Net(COMPUTED_AGAIN["arithmetic"])
    eager = copy.deepcopy(model)
    schedule = remat_planner.plan(model, (torch.randn(9, WIDTH), 0.5), budget="120%", solver="none", verify=False)
    planned = remat_planner.apply_schedule(model, schedule)
    for k, rows in enumerate((9, 8, 7, 5, 8, 4, 3, 9)):
        if k == 3:
            caplog.clear()
        x, number, scale = torch.randn(rows, WIDTH), 0.1 * k, 0.9 - 0.1 * k
        assert all(map(torch.equal, step(eager, x, number, scale, k), step(planned, x, number, scale, k))), rows
    assert not caplog.records


@pytest.mark.slow
def test_an_attribute_of_an_object_is_a_number_too(caplog):
    class Weights:
        share = 0.5  # of the class, which is watched as it is

        def __init__(self):
            self.share = 0.5

    torch.manual_seed(0)
    model, x = Net(lambda self, h, a, b: h * self.weights.share + b), torch.randn(4, WIDTH)
    model.weights = Weights()
    eager = copy.deepcopy(model)
    planned = remat_planner.apply_schedule(
        model, remat_planner.plan(model, (x, 0.5), budget="120%", solver="none", verify=False)
    )
    for k in range(8):
        if k == 3:
            caplog.clear()
        eager.weights.share = model.weights.share = 0.2 + 0.1 * k
        assert all(map(torch.equal, step(eager, x, 0.5, 0.5, k), step(planned, x, 0.5, 0.5, k)))
    assert not caplog.records
    del eager.weights.share, model.weights.share
    assert all(map(torch.equal, step(eager, x, 0.5, 0.5, 1), step(planned, x, 0.5, 0.5, 1)))
