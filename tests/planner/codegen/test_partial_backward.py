"""Gradients that arrive at some outputs only: eager's bits, None where eager has None, eager's hooks, and no more bytes."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from remat_planner.planner.apply import apply_schedule, planned_call
from remat_planner.planner.codegen import UndecidedError, cuts, emit
from remat_planner.planner.codegen.executions import StraightLine
from remat_planner.planner.codegen.gradient_parts import GradientParts, flow_of
from remat_planner.planner.errors import MissingGradientError
from remat_planner.planner.measurement.storage_meter import StorageMeter
from remat_planner.schedules import simulate
from remat_planner.tracer import capture, lower
from remat_planner.tracer.joint import Joint
from tests.planner.random_schedules import random_steps, schedule_of


class Heads(nn.Module):
    """Heads on a trunk, and the trunk's result."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        h = torch.relu(self.trunk(x))
        return {"first": self.first(h), "second": self.second(h).sin(), "hidden": h, "none": None, "places": h.argmax(-1)}


class Parts(nn.Module):
    """Parts of one tensor, of unequal sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(8, 8), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> Any:
        first, second, third = torch.tanh(self.linear(x)).split([3, 3, 2], -1)
        return self.head(first) * second.sum(), second.exp(), third.unbind(-1)[0]


class Recurrent(nn.Module):
    """All results of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x[None])


class Balanced(nn.Module):
    """An auxiliary loss in every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(8, 3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> Any:
        auxiliary = []
        for layer, gate in zip(self.layers, self.gates, strict=True):
            auxiliary.append((gate(x).softmax(-1).mean(0) ** 2).sum())
            x = x + F.gelu(layer(x))
        return x, *auxiliary


class Tied(nn.Module):
    """One weight in both outputs, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8) * 0.3), nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor) -> Any:
        h = torch.tanh(x @ self.weight + self.bias)
        return torch.tanh(h @ self.weight + self.bias) @ self.weight.t(), h * self.bias


class Recomputing(nn.Module):
    """Dropout in each head, in one of them under the caller's own checkpointing, and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.BatchNorm1d(8), nn.Linear(8, 4), nn.Linear(8, 4)

    def _second(self, h: torch.Tensor) -> torch.Tensor:
        return F.dropout(torch.tanh(self.second(h)), 0.4, self.training)

    def forward(self, x: torch.Tensor) -> Any:
        h = F.dropout(self.norm(x), 0.3, self.training)
        return F.dropout(self.first(h), 0.2, self.training), checkpoint(self._second, h, use_reentrant=False)


class Joined(nn.Module):
    """Gradients in several layouts: views of larger ones, transposed and expanded ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> Any:
        h = torch.tanh(self.first(x))
        return self.second(torch.cat([h, h.sin()], 1)), h.t().exp(), h.mean(0), h


class Rounded(torch.autograd.Function):
    """Its gradient does not depend on the one that arrives."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return torch.ones(4, 8)


class Constant(nn.Module):
    """A gradient that is there or not, and never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        h = self.first(x)
        return Rounded.apply(h), self.second(h).sin()


class Added(nn.Module):
    """A gradient that is a sum of three; its second term is the gradient of another parameter too."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(4, 8))

    def forward(self, x: torch.Tensor) -> Any:
        return self.scale.sin() * x, (self.scale + self.shift).exp() * x, self.scale.cos() * x


MODELS: list[type[nn.Module]] = [Heads, Parts, Recurrent, Balanced, Tied, Recomputing, Joined, Constant]


@pytest.fixture(autouse=True)
def _one_thread_and_many_segments(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", 6)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def outputs_of(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]


def bits(tensor: torch.Tensor | None) -> list[int] | None:
    """As integers, so that a zero has a sign and NaN equals itself."""
    return None if tensor is None else tensor.detach().contiguous().flatten().view(torch.uint8).tolist()


def step(called: nn.Module, own: nn.Module, x: torch.Tensor, chosen: tuple[int, ...], factor: float) -> list[Any]:
    """A backward from the ``chosen`` outputs: gradients, buffers, generator state, and which hooks ran."""
    own.zero_grad()
    torch.manual_seed(3)
    ran: list[str] = []
    handles = [p.register_hook(lambda _, name=name: ran.append(name)) for name, p in own.named_parameters()]
    inputs = x.clone().requires_grad_()
    outputs = outputs_of(called(inputs))
    loss = sum((outputs[k] * torch.linspace(-1, 1, outputs[k].numel()).view_as(outputs[k])).relu().sum() for k in chosen)
    (loss * factor).backward()
    for handle in handles:
        handle.remove()
    found = [inputs.grad, *(p.grad for p in own.parameters()), *own.buffers(), torch.get_rng_state()]
    return [*map(bits, found), sorted(ran)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_any_outputs_may_get_gradients(kind: type[nn.Module]):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(4, 8)
    eager, start = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    joint = capture(model, (x.clone().requires_grad_(),))
    graph = lower(joint).graph
    count = len(outputs_of(eager(x)))
    choices = [chosen for size in range(1, count + 1) for chosen in itertools.combinations(range(count), size)]
    for steps in (None, random_steps(graph, 1, evict=0.7, evict_again=0.1)):
        ours = apply_schedule(model, schedule_of(joint, steps, graph=graph))
        for chosen, factor in itertools.product(choices, (1.0, -0.0, float("inf"))):
            model.load_state_dict(start)
            eager.load_state_dict(start)
            assert step(ours, model, x, chosen, factor) == step(eager, eager, x, chosen, factor), (steps, chosen, factor)
        assert len(planned_call(ours).programs) == 1


@pytest.mark.slow
def test_a_sum_that_lacks_its_first_term_does_not_change_the_next_one(monkeypatch: pytest.MonkeyPatch):
    def whole(joint: Joint, line: StraightLine) -> list[GradientParts]:
        return [GradientParts.whole(i, line, t) for i, t in zip(line.gradients, flow_of(joint).gradients, strict=True)]

    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", 400)
    monkeypatch.setattr(cuts, "parts_of_gradients", whole)  # as in a process group where each sum waits for its turn
    test_any_outputs_may_get_gradients(Added)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Balanced, Recomputing, Joined])
def test_fewer_gradients_take_no_more_bytes(kind: type[nn.Module]):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(4, 8)
    joint = capture(model, (x,))
    graph = lower(joint).graph
    graph = replace(graph, ops=tuple(replace(op, replay_bytes=0, workspace=0) for op in graph.ops))
    steps = random_steps(graph, 1, evict=0.7, evict_again=0.1)
    ours = apply_schedule(model, schedule_of(joint, steps, graph=graph))
    live = simulate(graph, steps).bytes - graph.constant_bytes
    loss_at = next(k for k, i in enumerate(steps) if graph.ops[i].outside)
    for chosen in range(len(outputs_of(ours(x)))):
        outputs_of(ours(x))[chosen].sum().backward()  # emits the backward
        model.zero_grad()
        gc.collect()
        meter = StorageMeter([*model.parameters(), *model.buffers(), x])
        with meter:
            output = outputs_of(ours(x))
            arriving = torch.ones_like(output[chosen])
            meter.peak = meter.live
            output[chosen].backward(arriving)
        assert meter.peak <= max(live[loss_at:]), chosen
        del output, arriving
        model.zero_grad()
        assert meter.live == 0


class TwoMoments(nn.Module):
    """One operator with two results, whose formula is another one for each."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        variance, mean = torch.var_mean(self.linear(x), -1)
        return {"variance": variance, "mean": mean}


def test_what_is_not_known_is_refused_by_name():
    model, x = TwoMoments(), torch.randn(4, 8)
    ours = apply_schedule(model, schedule_of(capture(model, (x,))))
    output = ours(x)
    (output["variance"].sum() + output["mean"].sum()).backward()
    with pytest.raises(
        MissingGradientError, match=r"arrives at \['mean'\] and none at \['variance'\].*VarMean.*loss="
    ) as caught:
        ours(x)["mean"].sum().backward()
    assert caught.value.outputs == ("['variance']",)


@pytest.mark.slow
def test_without_a_record_of_the_flow_every_gradient_has_to_arrive():
    model, x = Heads(), torch.randn(4, 8)
    joint = replace(capture(model, (x,)), flow=None)
    graph = lower(joint).graph
    program = emit(joint, graph, range(len(graph.ops)))
    assert {handover.tangents for handover in program.handovers} == {frozenset(range(3))}
    with pytest.raises(UndecidedError):
        program.backwards.without(frozenset([0]))
    assert program.backwards.without(frozenset()) is program.backwards.whole


def test_what_no_gradient_needs_does_not_run():
    model, x = Heads(), torch.randn(4, 8)
    joint = capture(model, (x,))
    graph = lower(joint).graph
    program = emit(joint, graph, range(len(graph.ops)))
    whole, first = program.backwards.whole, program.backwards.without(frozenset([1, 2]))

    def operators(backward: Any) -> list[str]:
        nodes = [node for segment in backward.segments for node in segment.module.graph.nodes]
        return [node.meta["captured"].meta["name"] for node in nodes if "captured" in node.meta]

    assert set(operators(first)) < set(operators(whole))
    assert not any(name.startswith("second/") for name in operators(first))
    assert [segment.gradients for segment in first.segments] == [segment.gradients for segment in whole.segments]
    assert program.backwards.without(frozenset([1, 2])) is first
