"""What eager retains and the plan does not: the graph's eager form has eager's measured peak."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from remat_planner.planner.measurement import measure_peak
from remat_planner.schedules import simulate
from remat_planner.tracer import capture, lower
from tests.tracer.cases import Written, mean_square


def _experts(m: Written, x: torch.Tensor) -> torch.Tensor:
    """Tokens are sent to experts by products; the gradients of one read a saved activation first, then a weight."""
    routed = torch.einsum("td,te->etd", x, m.a(x).softmax(-1))
    hidden = F.gelu(torch.einsum("etd,edf->etf", routed, m.weight))
    return mean_square(torch.einsum("etf,efd->etd", hidden, m.weight.transpose(1, 2)).sum(0))


def _cell(m: Written, x: torch.Tensor) -> torch.Tensor:
    """The gates of a cell are computed in place, in slices of one product."""
    hidden = m.a(x[0])
    hidden = m.a(x[1], hidden)
    return mean_square(hidden)


def _layer() -> dict[str, nn.Module]:
    return {"a": nn.Linear(64, 64)}


def _after(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda m, x: function(torch.tanh(m.a(x))).mean()


EXPRESSIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a power": lambda h: h.pow(2),
    "a root of mean squares": lambda h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6),
    "a logarithm of a sum": lambda h: h.logsumexp(-1),
    "an error function": lambda h: h.erf(),
    "a quotient of two": lambda h: F.normalize(h),
    "a cumulative sum": lambda h: h.cumsum(0),
    "a product with itself": lambda h: h * h,
    "a sum with a product with itself": lambda h: torch.addcmul(h, h, h),
}


@pytest.mark.parametrize(
    ("forward", "parts", "x"),
    [
        (_experts, lambda: {"a": nn.Linear(32, 4), "weight": nn.Parameter(torch.randn(4, 32, 128) / 8)}, torch.randn(64, 32)),
        (_cell, lambda: {"a": nn.GRUCell(24, 64)}, torch.randn(2, 32, 24)),
        *((_after(function), _layer, torch.randn(512, 64)) for function in EXPRESSIONS.values()),
    ],
    ids=["experts by einsum", "GRU cell", *EXPRESSIONS],
)
def test_the_peak_without_recomputation_is_eagers(forward: Callable[..., torch.Tensor], parts, x: torch.Tensor) -> None:
    model = Written(forward, **parts())
    graph = lower(capture(model, (x,))).graph
    model(x).backward()
    model.zero_grad()
    eager = graph.constant_bytes + measure_peak(lambda: model(x).backward())
    steps = range(len(graph.ops))
    assert abs(simulate(graph.eager, steps).peak_bytes / eager - 1) < 0.002  # a kernel's workspace is not in the graph
    assert abs(simulate(graph, steps).peak_bytes / eager - 1) > 0.01


def test_a_loss_that_eager_differentiates_in_place_holds_nothing_more() -> None:
    x, targets = torch.randn(512, 64), torch.rand(512, 64)
    model = Written(lambda m, x: F.binary_cross_entropy_with_logits(torch.tanh(m.a(x)), targets), **_layer())
    graph = lower(capture(model, (x,))).graph
    model(x).backward()
    model.zero_grad()
    eager = graph.constant_bytes + measure_peak(lambda: model(x).backward())
    assert abs(simulate(graph.eager, range(len(graph.ops))).peak_bytes / eager - 1) < 0.002
