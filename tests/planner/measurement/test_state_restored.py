"""Real steps leave everything as it was."""

from __future__ import annotations

import copy
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remat_planner.planner.measurement.state_restored import state_restored

GLOBAL: list[Any] = []


class Changing(nn.Module):
    """Its forward changes state of every kind."""

    of_the_class: list[int] = []  # noqa: RUF012 - on purpose

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.teacher = copy.deepcopy(self.linear).requires_grad_(False)
        self.rows = nn.Embedding(3, 2, max_norm=0.1)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("assigned", torch.zeros(2))
        self.register_buffer("slot", torch.zeros(2))
        self.calls = 0
        self.history: dict[str, Any] = {"losses": [], "last": (torch.zeros(2), [torch.zeros(2)])}
        self.generator = torch.Generator().manual_seed(1)
        self.python_generator = random.Random(1)
        self.kind = "linear"

    def forward(self, x: torch.Tensor, context: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            self.teacher.weight.lerp_(self.linear.weight, 0.5)
            self.history["last"][1][0].add_(1)
            x.mul_(2)
        self.seen.add_(1)
        self.assigned.data = torch.ones(2)
        self.slot = torch.ones(2)
        self.calls += 1
        self.history["losses"].append(x.sum())
        self.new = object()
        self.linear.bias.requires_grad_(False)
        self.of_the_class.append(1)
        GLOBAL.append(x)
        context["seen"] = True
        del self.__dict__["kind"]
        noise = torch.rand(()) + torch.rand((), generator=self.generator)
        drawn = random.random() + np.random.random() + self.python_generator.random()
        return self.linear(x).sum() + self.rows(torch.tensor([0])).sum() + noise + drawn


def everything(model: Changing, x: torch.Tensor, context: dict[str, Any]) -> list[Any]:
    """The state as values that can be compared."""
    last = model.history["last"]
    tensors = [*model.parameters(), *model.buffers(), last[0], last[1][0], x]
    return [
        *(tensor.tolist() for tensor in tensors),
        *(tensor.data_ptr() for tensor in tensors),
        *(id(tensor) for tensor in tensors),
        *(p.grad is None or (id(p.grad), p.grad.tolist()) for p in model.parameters()),
        [p.requires_grad for p in model.parameters()],
        (model.calls, len(model.history["losses"]), getattr(model, "kind", None), hasattr(model, "new")),
        (list(Changing.of_the_class), list(GLOBAL), dict(context)),
        (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        (model.generator.get_state().tolist(), model.python_generator.getstate()),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back_at_the_end(fails: bool):
    model, x, context = Changing(), torch.ones(1, 2), {"seen": False}
    model.linear.weight.grad = torch.ones(2, 2)
    before = everything(model, x, context)

    class AnError(Exception):
        pass

    def steps() -> None:
        with state_restored(model, (x, context)) as state, state.observed():
            model(x, context).backward()
            assert everything(model, x, context) != before
            if fails:
                raise AnError

    with pytest.raises(AnError) if fails else nullcontext():
        steps()
    assert everything(model, x, context) == before


def test_a_restart_repeats_the_step():
    model, x, context = Changing(), torch.ones(1, 2), {"seen": False}
    with state_restored(model, (x, context)) as state:
        losses = []
        for _ in range(3):
            state.restart()
            assert model.linear.weight.grad is None
            with state.observed():
                loss = model(x, context)
            loss.backward()
            losses.append((loss.item(), model.seen.item(), model.calls, len(GLOBAL)))
    assert losses[0] == losses[1] == losses[2]


def test_optimizers_that_step_in_hooks_are_put_back():
    torch.manual_seed(0)
    model, x = nn.Linear(2, 2), torch.ones(1, 2)
    optimizer = torch.optim.Adam(model.parameters())

    def step(_: torch.Tensor) -> None:
        optimizer.step()

    model.weight.register_post_accumulate_grad_hook(step)
    model(x).sum().backward()
    before = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
    with state_restored(model, (x,)):
        model(x).sum().backward()
        assert str(optimizer.state_dict()) != str(before[0])
    assert str((optimizer.state_dict(), model.state_dict())) == str(before)


def test_gradients_that_are_views_of_buckets_keep_their_content():
    model, x = nn.Linear(2, 2, bias=False), torch.ones(1, 2)
    bucket = torch.ones(4)
    gradient = model.weight.grad = bucket.view(2, 2)
    with state_restored(model, (x,)) as state:
        state.restart()
        bucket.zero_()
        model(x).sum().backward()
        assert model.weight.grad is not gradient
    assert model.weight.grad is gradient
    assert gradient.tolist() == [[1, 1], [1, 1]]


def test_a_graph_from_before_finds_what_it_saved_unchanged():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), torch.randn(4, 3)
    penalty = sum(p.square().sum() for p in model.parameters()) + (model[1].running_var * model[1].weight).sum()
    with state_restored(model, (x,)):
        model(x).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        x.zero_()
    assert x._version == 0
    penalty.backward()
    assert torch.equal(model[0].weight.grad, 2 * model[0].weight)
