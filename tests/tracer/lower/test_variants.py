"""Steps in the form that takes the least memory: which ops change, that they change back and forth by name, and their costs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.planning import Settings, Step, remember_capture, trace_step
from remat_planner.planner.planning.step import leaner
from remat_planner.schedules import Schedule, simulate
from remat_planner.tracer import capture
from remat_planner.tracer.lower import in_less_memory, variant_as
from remat_planner.tracer.lower.in_place_chains import chains
from remat_planner.tracer.lower.overwriting import overwriters


class Attention(nn.Module):
    """Attention and a ReLU: results that one operator reads alone, and gradients that meet what the forward retained."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.first, self.second = nn.Linear(16, 48), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x).chunk(3, -1)
        x = x + ((q @ k.transpose(1, 2)) * 0.25).softmax(-1) @ v
        return x + self.second(torch.relu(self.first(F.dropout(x, 0.1))))


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def _step() -> tuple[nn.Module, torch.Tensor, Step]:
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 8, 16)
    return model, x, trace_step(model, (x,), settings=Settings(loss=_loss))


def _in_order(step: Step) -> Schedule:
    """The schedule without recomputation."""
    steps = tuple(range(len(step.graph.ops)))
    peak = simulate(step.graph, steps).peak_bytes
    schedule = Schedule(step.graph, steps, peak, "none", "feasible", step.graph.seconds, "", origin=step.origin)
    remember_capture(schedule, step)
    return schedule


@pytest.mark.slow
def test_what_one_operator_reads_alone_is_written_over():
    model, x, _ = _step()
    joint = capture(model, (x,), loss=_loss)
    assert "bmm.0+mul.0+_softmax.0" in [chain.name for chain in chains(joint)]
    assert "first/addmm.0+relu.0" in [chain.name for chain in chains(joint)]
    over = {node.meta["name"] for node in overwriters(joint)}
    assert {"backward/threshold_backward.0", "backward/_softmax_backward_data.0"} <= over


def test_what_is_read_twice_or_returned_is_left_alone():
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.linear(x)  # GELU's backward reads it
            returned = self.linear(F.gelu(h))
            return returned, torch.relu(returned)

    joint = capture(Kept(), (torch.randn(4, 8),), loss=lambda output: output[0].sum() + output[1].sum())
    assert not [chain.name for chain in chains(joint) if not chain.first.meta["in_backward"]]


@pytest.mark.slow
def test_the_leaner_form_has_eagers_bits_and_the_predicted_peak():
    model, x, step = _step()
    lean = leaner(step)
    schedule = _in_order(lean)
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical
    assert found.measured_peak_bytes <= schedule.peak_bytes < _in_order(step).peak_bytes
    assert lean.graph.seconds == pytest.approx(step.graph.seconds)
    in_eager = simulate(lean.graph.eager, schedule.steps).peak_bytes
    assert in_eager == simulate(step.graph.eager, range(len(step.graph.ops))).peak_bytes


@pytest.mark.slow
def test_a_capture_takes_the_form_of_a_planned_graph():
    model, x, step = _step()
    joint = capture(model, (x,), loss=_loss)
    lean = in_less_memory(joint, at_hand=True)
    graph = leaner(step).graph
    assert [node.meta["name"] for node in variant_as(joint, graph).ops] == [node.meta["name"] for node in lean.ops]
    assert variant_as(joint, step.graph) is joint


@pytest.mark.slow
def test_a_second_backward_reads_what_the_first_has_not_written_over():
    model, x, step = _step()
    planned = remat_planner.apply_schedule(model, _in_order(leaner(step)), loss=_loss)
    gradients = []
    for module in (planned, None):
        torch.manual_seed(1)
        loss = _loss((module or remat_planner.remove_schedule(planned))(x))
        for retain in (True, False):
            model.zero_grad()
            loss.backward(retain_graph=retain)
            gradients.append([p.grad.clone() for p in model.parameters()])
    first, second, *eager = gradients
    assert all(map(torch.equal, first, eager[0]))
    assert all(map(torch.equal, second, eager[1]))
