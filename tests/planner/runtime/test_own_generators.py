"""Draws from generators of the model's own, kept and repeated: eager's bits, and the generator where eager leaves it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import checkpoint

import remat_planner
from remat_planner.planner.apply import planned_call
from tests.planner.runtime.planned_net import equal, gradients, planned

Draw = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

DRAWS: dict[str, Draw] = {
    "rand": lambda x, g: x * torch.rand(x.shape, generator=g),
    "randn_like": lambda x, g: x + torch.randn_like(x, generator=g),
    "randint": lambda x, g: x * torch.randint(0, 5, x.shape, generator=g),
    "randperm": lambda x, g: x[:, torch.randperm(x.shape[1], generator=g)],
    "bernoulli_": lambda x, g: x * torch.empty_like(x).bernoulli_(0.5, generator=g),
    "bernoulli_ of another layout": lambda x, g: x * torch.empty_like(x.t()).bernoulli_(0.5, generator=g).t(),
    "normal_": lambda x, g: x + torch.empty_like(x).normal_(1.0, 2.0, generator=g),
    "normal": lambda x, g: x + torch.normal(torch.zeros_like(x), 0.5, generator=g),
    "poisson": lambda x, g: x * torch.poisson(torch.full_like(x, 3.0), generator=g),
    "multinomial": lambda x, g: x * torch.multinomial(torch.ones(x.shape[1]), x.shape[1], generator=g),
    "beside the default one": lambda x, g: F.dropout(x * torch.rand(x.shape, generator=g), 0.3) + torch.rand(x.shape),
}


class Noisy(nn.Module):
    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.draw = draw
        self.own = torch.Generator().manual_seed(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.draw(torch.tanh(layer(x)), self.own)
        return x.square().mean()


def steps(model: nn.Module, x: torch.Tensor, own: torch.Generator, reseed: Callable[[int], Any] = lambda _: None) -> list[Any]:
    torch.manual_seed(5)
    seen: list[Any] = []
    for k in range(3):
        reseed(k)
        model.zero_grad()
        loss = model(x)
        loss.backward()
        seen += [loss.detach(), *gradients(model), own.get_state(), torch.get_rng_state()]
    return seen


def both(draw: Draw) -> tuple[Noisy, Any, torch.Tensor]:
    """An eager model, and a planned one that recomputes."""
    torch.manual_seed(0)
    eager, x = Noisy(draw), torch.randn(4, 8)
    model = copy.deepcopy(eager)
    ours = planned(model, (x,))
    schedule = planned_call(ours).schedule
    assert len(schedule.steps) > len(schedule.graph.ops)
    return eager, ours, x


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWS)
def test_draws_and_their_repetitions_are_eagers(name: str):
    eager, ours, x = both(DRAWS[name])
    assert equal(steps(ours, x, ours.own), steps(eager, x, eager.own))


@pytest.mark.slow
def test_a_generator_that_is_seeded_in_each_step():
    eager, ours, x = both(DRAWS["rand"])
    assert equal(steps(ours, x, ours.own, ours.own.manual_seed), steps(eager, x, eager.own, eager.own.manual_seed))


@pytest.mark.slow
def test_a_generator_that_is_replaced_is_drawn_from():
    eager, ours, x = both(DRAWS["rand"])
    for module in (eager, ours):
        module.own = torch.Generator().manual_seed(11)
    assert equal(steps(ours, x, ours.own), steps(eager, x, eager.own))


@pytest.mark.slow
def test_a_copy_draws_from_its_own_generator():
    eager, ours, x = both(DRAWS["rand"])
    copied = copy.deepcopy(ours)
    before = ours.own.get_state()
    assert equal(steps(copied, x, copied.own), steps(eager, x, eager.own))
    assert ours.own.get_state().equal(before)


@pytest.mark.slow
def test_a_generator_that_is_an_argument():
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return (self.layer(x) * torch.rand(x.shape, generator=generator)).square().mean()

    torch.manual_seed(0)
    eager, x = Drawing(), torch.randn(4, 8)
    ours = planned(copy.deepcopy(eager), (x, torch.Generator().manual_seed(1)))
    for seed in (1, 2):
        losses = [module(x, torch.Generator().manual_seed(seed)) for module in (eager, ours)]
        assert torch.equal(*losses)


@pytest.mark.slow
def test_a_draw_under_checkpoint_is_made_again_as_in_eager():
    def draw(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        return checkpoint(lambda h: h * torch.rand(h.shape, generator=g) * h, x, use_reentrant=False)

    eager, ours, x = both(draw)
    assert equal(steps(ours, x, ours.own), steps(eager, x, eager.own))


@pytest.mark.slow
def test_no_checkpoint_is_exported_around_such_a_draw():
    torch.manual_seed(0)
    model, x = Noisy(DRAWS["rand"]), torch.randn(4, 8)

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([model, nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks[1](x).sum() + self.blocks[0](x)

    net = Blocks()
    schedule = remat_planner.plan(net, (x,), budget="100%", solver="none")
    exported = remat_planner.export(net, schedule, to="modules")
    assert "blocks.0" not in exported.setting["modules"]
