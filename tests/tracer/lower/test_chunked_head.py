"""Loss heads in chunks of rows: which are found, which stay whole and why, and that loss and gradients are close to eager's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.planning import Settings, remember_capture, trace_step
from remat_planner.planner.planning.step import leaner
from remat_planner.schedules import Schedule, simulate
from remat_planner.tracer import capture
from remat_planner.tracer.costs.devices import device_named
from remat_planner.tracer.costs.roofline import roofline_seconds, roofline_workspace
from remat_planner.tracer.lower import chunks_of, heads, in_less_memory, lower, variant_as
from remat_planner.tracer.operators import op_call

CLASSES, WIDTH, IGNORED = 50, 16, -100
LossOf = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Decoder(nn.Module):
    """A layer and a head, whose loss is computed as ``loss_of`` says."""

    def __init__(
        self, loss_of: LossOf, dtype: torch.dtype = torch.float32, *, bias: bool = False, returns: bool = False
    ) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(WIDTH, WIDTH, dtype=dtype), nn.Linear(WIDTH, CLASSES, bias=bias, dtype=dtype)
        self.loss_of, self.returns = loss_of, returns

    def forward(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        logits = self.head(torch.tanh(self.layer(x)))
        loss = self.loss_of(logits, targets)
        return {"loss": loss, "logits": logits} if self.returns else loss


def _plain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float().view(-1, CLASSES), targets.view(-1))


def _capped(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    capped = 30 * torch.tanh(logits.float() / 30)
    return F.cross_entropy(capped.view(-1, CLASSES), targets.view(-1), reduction="sum")


def _shifted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    next_ones = targets[..., 1:].contiguous()
    return F.cross_entropy(logits[..., :-1, :].contiguous().view(-1, CLASSES), next_ones.view(-1), ignore_index=3)


def _batch(dtype: torch.dtype = torch.float32, rows: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    targets = torch.randint(0, CLASSES, (2, rows))
    targets[0, 2] = IGNORED
    return torch.randn(2, rows, WIDTH, dtype=dtype), targets.clamp(min=IGNORED)


def _in_chunks(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], count: int) -> tuple[Schedule, int]:
    """The schedule without recomputation of the step with its head in chunks, and eager's peak."""
    step = trace_step(model, batch, settings=Settings(variants="any"))
    lean = leaner(step, chunks={head.name: count for head in heads(step.joint)[0]})
    steps = tuple(range(len(lean.graph.ops)))
    peak = simulate(lean.graph, steps).peak_bytes
    schedule = Schedule(lean.graph, steps, peak, "none", "feasible", lean.graph.seconds, "", origin=step.origin)
    remember_capture(schedule, lean)
    return schedule, simulate(step.graph.eager, range(len(step.graph.ops))).peak_bytes


@pytest.mark.parametrize(
    ("loss_of", "options"),
    [
        (_plain, {"dtype": torch.bfloat16, "bias": True}),
        (_capped, {"dtype": torch.bfloat16}),
        (_shifted, {}),
        (_plain, {"returns": True}),
    ],
    ids=["bfloat16 with bias", "capped, summed", "shifted, another class ignored", "logits returned"],
)
def test_loss_and_gradients_are_close_to_eagers_within_the_predicted_peak(loss_of: LossOf, options: dict) -> None:
    torch.manual_seed(0)
    model, batch = Decoder(loss_of, **options), _batch(options.get("dtype", torch.float32))
    if loss_of is _shifted:
        batch[1][0, 2] = 3
    schedule, in_eager = _in_chunks(model, batch, 5)
    assert chunks_of(schedule.graph) == {"nll_loss_forward.0": 5}
    assert schedule.graph.inexact == ("the head in 5 chunks",)
    assert schedule.baseline_peak_bytes == in_eager, "the report compares with eager's step, whose logits are whole"
    found = remat_planner.verify(model, schedule, batch)
    assert not found.identical, "sums in parts round otherwise: a test on equal bits would not see the chunks"
    assert found.close
    assert found.as_promised
    assert found.measured_peak_bytes <= schedule.peak_bytes < in_eager


def test_a_gradient_that_arrives_scales_those_that_the_forward_made() -> None:
    torch.manual_seed(0)
    model, (x, targets) = Decoder(_plain, bias=True), _batch()
    x = x.requires_grad_()
    schedule, _ = _in_chunks(model, (x, targets), 3)
    expected, eager = x.detach().clone().requires_grad_(), copy.deepcopy(model)
    (eager(expected, targets) * 3).backward()
    planned = remat_planner.apply_schedule(model, schedule)
    loss = planned(x, targets) * 3
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    loss.backward()
    for parameter, first, other in zip(model.parameters(), once, eager.parameters(), strict=True):
        torch.testing.assert_close(first, other.grad)
        torch.testing.assert_close(parameter.grad, 2 * other.grad)
    torch.testing.assert_close(x.grad, 2 * expected.grad)


def test_rows_that_all_do_not_count_give_what_eager_gives() -> None:
    model, (x, targets) = Decoder(_plain), _batch()
    schedule, _ = _in_chunks(model, (x, targets), 4)
    nothing = torch.full_like(targets, IGNORED)
    loss = remat_planner.apply_schedule(model, schedule)(x, nothing)
    loss.backward()
    assert loss.isnan()
    assert all(not parameter.grad.any() for parameter in model.parameters())


def _per_class(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.view(-1, CLASSES), targets.view(-1), weight=torch.ones(CLASSES))


def _of_each_row(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.view(-1, CLASSES), targets.view(-1), reduction="none").square().mean()


def _smoothed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.view(-1, CLASSES), targets.view(-1), label_smoothing=0.1)


def _with_a_penalty(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return _plain(logits, targets) + 1e-4 * logits.square().mean()


def _of_a_picture(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.transpose(1, 2), targets)


def _after_a_norm(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return _plain(F.layer_norm(logits, (CLASSES,)), targets)


@pytest.mark.parametrize(
    ("loss_of", "why"),
    [
        (_per_class, "classes have weights"),
        (_of_each_row, "for each row"),
        (_smoothed, "logarithms of its probabilities"),
        (_with_a_penalty, "gradient"),
        (_of_a_picture, "rows by classes"),
        (_after_a_norm, "stands between a linear layer and the loss"),
    ],
)
def test_what_would_mean_something_else_stays_whole_by_name(loss_of: LossOf, why: str) -> None:
    found, whole = heads(capture(Decoder(loss_of), _batch(rows=4)))
    assert not found
    assert len(whole) == 1
    assert why in whole[0].why


def test_float16_stays_whole_since_small_gradients_would_vanish() -> None:
    found, (whole,) = heads(capture(Decoder(_plain, torch.float16), _batch(torch.float16, rows=4)))
    assert not found
    assert "bfloat16" in whole.why


def test_a_capture_takes_the_form_of_a_planned_graph() -> None:
    joint = capture(Decoder(_plain), _batch(rows=4))
    lean = in_less_memory(joint, at_hand=False, chunks={"nll_loss_forward.0": 4})
    again = variant_as(joint, lower(lean).graph)
    assert [node.meta["name"] for node in again.ops] == [node.meta["name"] for node in lean.ops]
    assert "nll_loss_forward.0:4 chunks" in lower(again).graph.by_name


def test_on_paper_chunks_take_their_share_of_the_logits_and_read_the_weight_again() -> None:
    joint = capture(Decoder(_plain, torch.bfloat16), _batch(torch.bfloat16))
    calls = {}
    for count in (1, 4):
        (node,) = [
            n for n in in_less_memory(joint, at_hand=False, chunks={"nll_loss_forward.0": count}).ops if "inexact" in n.meta
        ]
        calls[count] = op_call(node)
    assert roofline_workspace(calls[1]) == 64 * CLASSES * (4 + 4), "the logarithms and their gradient, both in float32"
    assert roofline_workspace(calls[4]) * 4 == roofline_workspace(calls[1])
    device = device_named("h100")
    assert roofline_seconds(calls[4], device) == pytest.approx(4 * roofline_seconds(calls[1], device)), (
        "kernels are launched 4 times"
    )
