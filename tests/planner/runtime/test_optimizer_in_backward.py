"""Optimizers that step in hooks, as soon as a gradient is there: nothing may read the parameter afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.apply import apply_schedule
from remat_planner.planner.codegen import cuts, emit
from remat_planner.planner.errors import ChangedInBetweenError
from remat_planner.tracer import capture, lower
from tests.planner.random_schedules import random_steps, schedule_of


class Stacked(nn.Module):
    """Layers whose weights are read in the forward, in the backward, and where a schedule computes something again."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + F.gelu(layer(norm(x)))
        return x.square().mean()


class Recurrent(nn.Module):
    """One weight and one bias in each step, and an embedding tied to the head: their gradients are sums."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(8, 8))
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8) * 0.3), nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x @ self.embedding
        for _ in range(4):
            x = x + torch.tanh(F.linear(x, self.weight, self.bias))
        return (x @ self.embedding.t()).logsumexp(-1).sum()


def step_in_hooks(model: nn.Module) -> None:
    optimizers = {parameter: torch.optim.SGD([parameter], 0.5) for parameter in model.parameters()}

    def step(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Stacked, Recurrent])
@pytest.mark.parametrize("calls_between_cuts", [2, 5, 400])
def test_each_parameter_is_stepped_as_in_eager(kind: type[nn.Module], calls_between_cuts: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", calls_between_cuts)
    torch.manual_seed(0)
    start, x = kind(), torch.randn(4, 8)
    eager = copy.deepcopy(start)
    step_in_hooks(eager)
    for _ in range(2):
        eager(x).backward()
    for seed in range(4):
        model = copy.deepcopy(start)
        joint = capture(model, (x,))
        graph = lower(joint).graph
        steps = random_steps(graph, seed, evict=0.7, evict_again=0.1)
        ours = apply_schedule(model, schedule_of(joint, steps, graph=graph))
        step_in_hooks(model)
        for _ in range(2):
            ours(x).backward()
        assert all(map(torch.equal, model.parameters(), eager.parameters())), seed


def test_a_gradient_waits_for_the_last_reader_of_its_parameter(monkeypatch: pytest.MonkeyPatch):
    """In this schedule the gradient of the weight is made before the weight is read for that of the layer's input."""
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", 1)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(3, 4)
    joint = capture(model, (x,))
    graph = lower(joint).graph
    of_weight = next(k for k, gradient in enumerate(joint.gradients) if joint.parameters[gradient.index].name == "1.weight")
    weight = joint.parameter_nodes[joint.gradients[of_weight].index]
    reader = next(node for node in joint.ops if node.meta["in_backward"] and weight in node.all_input_nodes)
    late, early = (graph.by_name[node.meta["name"]] for node in (reader, joint.gradients[of_weight].node))
    steps = [i for i in range(early + 1) if i != late]
    steps += [i for i in range(len(graph.ops)) if i not in steps]

    def segments() -> tuple[int, int]:
        """Where the weight is read last, and where its gradient leaves."""
        program = emit(joint, graph, steps)
        nodes = [[node.meta.get("captured") for node in segment.module.graph.nodes] for segment in program.segments]
        leaving = [of_weight in segment.gradients for segment in program.segments]
        return next(k for k, executed in enumerate(nodes) if reader in executed), leaving.index(True)

    read, leaves = segments()
    assert leaves >= read
    monkeypatch.setattr(cuts, "_wait_for_last_reads", lambda *_: None)
    read, leaves = segments()
    assert leaves < read


@pytest.mark.slow
def test_a_hook_that_changes_what_is_still_read_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", 2)
    torch.manual_seed(0)
    model, x = Stacked(), torch.randn(4, 8)
    ours = apply_schedule(model, schedule_of(capture(model, (x,))))

    def change_the_first(_: torch.Tensor) -> None:
        with torch.no_grad():
            model.layers[1].weight.add_(1)

    model.layers[2].weight.register_post_accumulate_grad_hook(change_the_first)
    with pytest.raises(ChangedInBetweenError, match=r"during the backward.*parameter layers\.1\.weight"):
        ours(x).backward()


@pytest.mark.slow
def test_verify_tells_the_states_of_one_optimizer_by_the_names_of_its_parameters():
    """The order in which hooks run is not eager's, and parameters that begin alike have the same values."""
    model = nn.Sequential(*(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(4)))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    whole = optimizer.param_groups

    def step(parameter: torch.Tensor) -> None:
        optimizer.param_groups = [{**whole[0], "params": [parameter]}]
        optimizer.step()
        optimizer.param_groups = whole
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    x = torch.randn(16, 8)
    schedule = remat_planner.plan(
        model, (x,), budget="90%", loss=lambda output: output.square().mean(), solver="greedy", verify=False
    )
    verified = remat_planner.verify(model, schedule, (x,))
    assert verified.identical, verified.differences
    assert not verified.nondeterministic
    assert not optimizer.state
