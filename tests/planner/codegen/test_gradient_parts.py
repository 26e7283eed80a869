"""Gradients with several contributions, from the planned module and from outside: eager's sums, in eager's order."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.codegen import cuts
from remat_planner.planner.codegen.executions import StraightLine
from remat_planner.planner.codegen.gradient_parts import GradientParts
from remat_planner.planner.codegen.segments import emit
from remat_planner.planner.planning.captures import settings_of
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import trace_step
from remat_planner.schedules import Schedule
from remat_planner.tracer import capture
from remat_planner.tracer.joint import Joint
from tests.planner.random_schedules import random_steps, schedule_of
from tests.zoo import ZOO


class Recurrent(nn.Module):
    """One weight and one bias, read in each step, and an embedding tied to the head."""

    def __init__(self, steps: int = 4, width: int = 48) -> None:
        super().__init__()
        self.steps = steps
        self.embedding = nn.Embedding(width, width)
        self.weight = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for _ in range(self.steps):
            x = x + torch.tanh(F.linear(x, self.weight, self.bias))
        return F.linear(x, self.embedding.weight)


def loss_of(output: torch.Tensor) -> torch.Tensor:
    return output.logsumexp(-1).mean()


def penalty(model: nn.Module) -> torch.Tensor:
    return 1e-2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()


def two_calls(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return loss_of(model(tokens)) + loss_of(model(tokens.flip(0)))


def with_a_penalty(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return loss_of(model(tokens)) + penalty(model)


def penalty_first(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    first = penalty(model)
    return first + loss_of(model(tokens))


def gradients(model: nn.Module, step: Callable[[nn.Module, torch.Tensor], torch.Tensor], tokens: torch.Tensor):
    model.zero_grad()
    step(model, tokens).backward()
    return [p.grad for p in model.parameters()]


def planned(budget: str, **parts: int) -> tuple[Recurrent, nn.Module, Schedule, torch.Tensor]:
    torch.manual_seed(0)
    model = Recurrent(**parts)
    tokens = torch.randint(0, 48, (16, 8))
    schedule = remat_planner.plan(model, (tokens,), budget=budget, loss=loss_of)
    assert isinstance(schedule, Schedule)
    return copy.deepcopy(model), remat_planner.apply_schedule(model, schedule), schedule, tokens


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["100%", "70%"])
def test_what_others_send_comes_first_as_in_eager(budget):
    eager, model, _, tokens = planned(budget)
    for step in (two_calls, with_a_penalty, penalty_first):
        assert all(map(torch.equal, gradients(model, step, tokens), gradients(eager, step, tokens))), step


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["100%", "70%"])
def test_parts_that_wait_do_not_raise_the_peak(budget):
    _, model, schedule, tokens = planned(budget, steps=12)
    found = remat_planner.verify(model, schedule, (tokens,), loss=loss_of)
    assert found.identical
    assert 0.95 * found.predicted_peak_bytes < found.measured_peak_bytes <= found.predicted_peak_bytes


@pytest.mark.slow
def test_a_gradient_that_is_a_sum_leaves_in_as_many_parts_as_it_has():
    _, model, schedule, tokens = planned("100%")
    joint = capture(remat_planner.remove_schedule(model), (tokens,), loss=settings_of(schedule).loss)
    parts = {slot.name: len(gradient.contributions) for slot, gradient in zip(joint.parameters, joint.gradients, strict=True)}
    assert parts == {"embedding.weight": 2, "weight": 4, "bias": 4}
    program = emit(joint, schedule.graph, schedule.steps)
    leaving = [joint.parameters[k].name for segment in program.segments for k in segment.gradients]
    assert {name: leaving.count(name) for name in parts} == parts
    additions = [n for s in program.segments for n in s.module.graph.nodes if n.meta.get("captured") in joint.gradients[1].sums]
    assert not additions


@pytest.mark.slow
def test_sums_that_the_program_makes_itself_stay_within_the_peak(monkeypatch):
    """As in a process group, where a gradient that waits for its turn goes over in one piece."""

    def whole(joint: Joint, line: StraightLine) -> list[GradientParts]:
        return [GradientParts.whole(gradient, line, frozenset()) for gradient in line.gradients]

    torch.manual_seed(0)
    model, tokens = Recurrent(width=96), torch.randint(0, 96, (2, 2))  # the gradients of the weights are the largest tensors
    schedule = remat_planner.plan(model, (tokens,), budget="100%", loss=loss_of, verify=False)
    monkeypatch.setattr(cuts, "parts_of_gradients", whole)
    found = remat_planner.verify(model, schedule, (tokens,), loss=loss_of)
    assert found.identical
    assert found.measured_peak_bytes <= found.predicted_peak_bytes


@pytest.mark.slow
def test_any_schedule_of_shared_weights_stays_within_its_peak():
    case = ZOO["lstm_loop"]()
    step = trace_step(case.model, case.args, case.kwargs, settings=Settings(loss=case.loss))
    for seed in range(6):
        schedule = schedule_of(step.joint, random_steps(step.graph, seed, evict=0.3), graph=step.graph)
        found = remat_planner.verify(case.model, schedule, case.args, case.kwargs, loss=case.loss)
        assert found.identical, seed
        assert found.measured_peak_bytes <= found.predicted_peak_bytes, seed


class Block(nn.Module):
    """Reads its weight three times and its input twice."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) * 0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(torch.tanh(x @ self.weight) @ self.weight)
        return x + torch.tanh(y @ self.weight)


class Around(nn.Module):
    """Blocks, and other readers of their weights and inputs: before, after and beside them."""

    def __init__(self, *, before: bool, after: bool, beside: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.before, self.after, self.beside = before, after, beside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if self.before:
                x = torch.tanh(x @ block.weight)
            y = block(x)
            if self.after:
                y = torch.tanh(y @ block.weight)
            x = y + torch.sin(x) if self.beside else y
        return x.square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(  # each pair of values once
    ("before", "after", "beside"), [(False, False, True), (False, True, False), (True, False, False), (True, True, True)]
)
def test_a_region_is_one_of_several_readers(before, after, beside):
    torch.manual_seed(0)
    model = Around(before=before, after=after, beside=beside)
    x = torch.randn(64, 32)
    schedule = remat_planner.plan(model, (x,), budget="85%", regions="blocks.*")
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical, found.differences
    assert found.within_budget
