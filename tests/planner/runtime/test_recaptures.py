"""Calls that differ from the captured one in a number, a hook or a setting are captured again and planned once, with advice."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.apply import planned_call
from tests.planner.runtime.planned_net import equal, gradients, planned, replanning

Change = Callable[[Any, int], Any]
STEPS = 5


class Net(nn.Module):
    """Reads a number of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("queue", torch.zeros(12, 8))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))
        self.temperature = 1.0
        self.note = ""

    def forward(self, x: torch.Tensor, weight: float = 1.0) -> tuple[torch.Tensor, float]:
        position = int(self.pointer)
        h = torch.tanh(self.a(x)) / self.temperature
        self.queue[position : position + 2] = h.detach()[:2]
        return self.b(h if self.note == "another" else h * 1).square().mean() * weight, self.temperature


def doubled(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def hooked_anew(model: Any, hook: Callable[..., Any]) -> None:
    model.a._forward_hooks.clear()
    model.a.register_forward_hook(hook)


def scaled_by(factor: float) -> Callable[..., torch.Tensor]:
    return lambda _module, _inputs, output: output * factor


# What changes before each step, the argument of the step, and how a message names it.
NUMBERS: dict[str, tuple[Change, Callable[[int], float], str]] = {
    "attribute": (lambda m, k: setattr(m, "temperature", 1.0 + k), lambda k: 1.0, "temperature"),
    "argument": (lambda m, k: None, lambda k: 0.5 + k, "the input [1] (1.5, now 2.5)"),
    "value read": (lambda m, k: m.pointer.fill_(2 * k), lambda k: 1.0, "test_recaptures.py:"),
    "variable of a hook": (lambda m, k: hooked_anew(m, scaled_by(1.0 + k)), lambda k: 1.0, "the hooks of a"),
    "text that matters not": (lambda m, k: setattr(m, "note", str(k)), lambda k: 1.0, "note"),
}


def both(calls: list[tuple[int, ...]], change: Change, weight: float) -> tuple[Net, Any, torch.Tensor]:
    torch.manual_seed(0)
    eager, x = Net(), torch.randn(4, 8)
    model = copy.deepcopy(eager)
    for net in (eager, model):
        change(net, 0)
    return eager, planned(model, (x, weight), replan=replanning(calls)), x


def trained_alike(eager: Net, ours: Any, x: torch.Tensor, change: Change, weight: Callable[[int], float]) -> bool:
    seen: list[list[Any]] = []
    for model in (eager, ours):
        seen.append([])
        for k in range(STEPS):
            change(model, k)
            model.zero_grad()
            loss, temperature = model(x, weight(k))
            loss.backward()
            seen[-1] += [loss.detach(), torch.tensor(temperature), model.queue.clone(), *gradients(model)]
    return equal(*seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_where_only_numbers_differ_nothing_is_planned(name: str, caplog: pytest.LogCaptureFixture):
    change, weight, named = NUMBERS[name]
    calls: list[tuple[int, ...]] = []
    eager, ours, x = both(calls, change, weight(0))
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        assert trained_alike(eager, ours, x, change, weight)
    assert not calls
    assert {id(program.schedule) for program in planned_call(ours).programs} == {id(planned_call(ours).schedule)}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3  # the third comes with advice, and it is the last
    assert all("changed since the model was captured" in message for message in messages[:2])
    assert named in messages[1]
    kept = 1 if name == "text that matters not" else 4
    assert "captured 3 times for inputs of one form ([0]: float32[4, 8]" in messages[2]
    assert f"{kept} are kept now, 32 at most" in messages[2]


ADVICE = {
    "attribute": "register_buffer",
    "argument": "torch.tensor(value)",
    "value read": "instead of its number",
    "variable of a hook": "register hooks once",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ADVICE)
def test_the_third_time_it_is_said_what_to_do(name: str, caplog: pytest.LogCaptureFixture):
    change, weight, _ = NUMBERS[name]
    eager, ours, x = both([], change, weight(0))
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        trained_alike(eager, ours, x, change, weight)
    assert ADVICE[name] in caplog.records[-1].getMessage()


@pytest.mark.slow
@pytest.mark.parametrize("hook", [lambda: doubled, lambda: scaled_by(2.0)], ids=["function", "new lambda"])
def test_a_hook_that_is_registered_anew_is_the_captured_one(hook: Callable[[], Any], caplog: pytest.LogCaptureFixture):
    calls: list[tuple[int, ...]] = []

    def change(model: Any, _: int) -> None:
        hooked_anew(model, hook())

    eager, ours, x = both(calls, change, 1.0)
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        assert trained_alike(eager, ours, x, change, lambda _: 1.0)
    assert not calls
    assert not caplog.records


@pytest.mark.slow
def test_a_step_of_other_operators_is_planned_and_counted(caplog: pytest.LogCaptureFixture):
    calls: list[tuple[int, ...]] = []

    def change(model: Any, k: int) -> None:
        model.note = "another" if k % 2 else ""

    eager, ours, x = both(calls, change, 1.0)
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        assert trained_alike(eager, ours, x, change, lambda _: 1.0)
    assert len(calls) == 1
    assert "planning once" in caplog.records[0].getMessage()


class Averaging(nn.Module):
    """Batch normalisation that averages over all batches, in a shared layer and by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=None)
        self.linear, self.shared = nn.Linear(6, 6), nn.BatchNorm1d(6, momentum=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        for _ in range(2):
            h = torch.tanh(self.shared(self.linear(h)))
        return h.square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("batches", [0, 10**6 + 3])
def test_batch_norms_that_average_over_all_batches_are_planned_once(batches: int, caplog: pytest.LogCaptureFixture):
    torch.manual_seed(0)
    eager, x = Averaging(), torch.randn(4, 3, 6, 6)
    eager.norm.num_batches_tracked.fill_(batches)
    calls: list[tuple[int, ...]] = []
    ours = planned(copy.deepcopy(eager), (x,), replan=replanning(calls))
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        for k in range(STEPS):
            for model in (eager, ours):
                model.zero_grad()
                model(x * (k + 1)).backward()
            assert equal(gradients(ours), gradients(eager))
            assert equal(list(ours.buffers()), list(eager.buffers()))
    assert not calls
    assert not caplog.records


@pytest.mark.slow
def test_such_batch_norms_in_blocks_that_are_planned_by_themselves():
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=None), nn.Tanh()) for _ in range(2)]
    eager, x = nn.Sequential(*blocks, nn.Linear(8, 1)), torch.randn(4, 8)
    model = copy.deepcopy(eager)
    schedule = remat_planner.plan(
        model, (x,), budget="100%", regions="[01]", solver="none", loss=lambda output: output.square().mean(), verify=False
    )
    ours = remat_planner.apply_schedule(model, schedule)
    for k in range(STEPS):
        for module in (eager, ours):
            module.zero_grad()
            module(x * (k + 1)).square().mean().backward()
        assert equal(gradients(ours), gradients(eager))
        assert equal(list(ours.buffers()), list(eager.buffers()))


@pytest.mark.slow
def test_what_was_seen_apart_is_not_taken_together():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.mode = nn.Linear(8, 8), "a"
            self.register_buffer("n", torch.tensor(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            return (h.sigmoid() if self.mode == "b" and int(self.n) == 1 else h.tanh()).square().mean()

    model, x = Branching(), torch.randn(4, 8)
    eager = copy.deepcopy(model)
    schedule = remat_planner.plan(model, (x,), budget="100%", solver="none", verify=False)
    ours = remat_planner.apply_schedule(model, schedule, audit=False)
    for mode, n in (("a", 1), ("b", 2), ("b", 1), ("b", 2), ("a", 1)):
        for net in (model, eager):
            net.mode = mode
            net.n.fill_(n)
        assert torch.equal(ours(x), eager(x)), (mode, n)
    assert len(planned_call(ours).programs) == 2
