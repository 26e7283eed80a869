"""Backwards between linear layers in chunks of rows: what is found, and that gradients are close to eager's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.planning import Settings, remember_capture, trace_step
from remat_planner.planner.planning.step import leaner
from remat_planner.schedules import Schedule, simulate
from remat_planner.tracer import capture
from remat_planner.tracer.lower import betweens, in_less_memory, lower, variant_as

WIDTH, INNER = 8, 32


class Gated(nn.Module):
    """A gated MLP, and one with biases, a tanh of a polynomial and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, INNER, bias=False) for _ in range(2))
        self.down = nn.Linear(INNER, WIDTH, bias=False)
        self.first, self.second = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        h = self.first(x)
        return x + self.second(F.dropout(h * torch.tanh(h + 0.04 * h.pow(3)), 0.1))


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


@pytest.mark.slow
def test_gradients_are_close_to_eagers_within_the_predicted_peak() -> None:
    torch.manual_seed(0)
    model, x = Gated(), torch.randn(4, 16, WIDTH, requires_grad=True)
    step = trace_step(model, (x,), settings=Settings(loss=_loss, variants="any"))
    found = betweens(step.joint)
    assert [between.name for between in found] == ["second/backward/mm.0", "down/backward/mm.1"]
    lean = leaner(step, overwriting=False, chunks={between.name: 5 for between in found})
    steps = tuple(range(len(lean.graph.ops)))
    peak = simulate(lean.graph, steps).peak_bytes
    schedule = Schedule(lean.graph, steps, peak, "none", "feasible", lean.graph.seconds, "", origin=step.origin)
    remember_capture(schedule, lean)
    in_eager = simulate(step.graph.eager, range(len(step.graph.ops))).peak_bytes
    assert schedule.baseline_peak_bytes == in_eager
    assert schedule.baseline_seconds == pytest.approx(step.graph.seconds)
    verified = remat_planner.verify(model, schedule, (x,))
    assert not verified.identical, "sums in parts round otherwise: a test on equal bits would not see the chunks"
    assert verified.as_promised
    assert verified.measured_peak_bytes <= peak < in_eager


def test_a_capture_takes_the_form_of_a_planned_graph() -> None:
    joint = capture(Gated(), (torch.randn(2, 4, WIDTH),), loss=_loss)
    lean = in_less_memory(joint, at_hand=False, overwriting=False, chunks=dict.fromkeys([b.name for b in betweens(joint)], 2))
    again = variant_as(joint, lower(lean).graph)
    assert [node.meta["name"] for node in again.ops] == [node.meta["name"] for node in lean.ops]
    assert not any("tanh_backward" in node.meta["name"] for node in lean.ops), "it is inside of an op"


class Frozen(nn.Module):
    """Linear layers with a ReLU between, of which the first has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, INNER).requires_grad_(requires_grad=False), nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Normed(Frozen):
    """A normalization between the linear layers, which reads whole rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.layer_norm(self.first(x), (INNER,)))


class Twice(Frozen):
    """What lies between the linear layers gets a gradient from elsewhere too, which may not arrive."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.relu(self.first(x))
        return self.second(h), h.sum()


@pytest.mark.parametrize(("kind", "count"), [(Frozen, 1), (Normed, 0), (Twice, 0)])
def test_only_what_is_done_row_by_row_with_one_gradient_is_found(kind: type[nn.Module], count: int) -> None:
    x = torch.randn(6, WIDTH, requires_grad=True)
    assert len(betweens(capture(kind(), (x,)))) == count
