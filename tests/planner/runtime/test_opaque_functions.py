"""Planned steps with Functions that launch kernels by address: eager's bits, within the budget, as predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner import InfeasibleBudgetError, Schedule, verify
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.solve_step import schedule_step
from remat_planner.planner.planning.step import trace_step
from remat_planner.tracer.functions import register_function
from tests.tracer.cases import Written, linear, mean_square, noise
from tests.tracer.launched import (
    Doubled,
    Dropped,
    Gated,
    Normalized,
    OnlyBackward,
    Reading,
    Scaled,
    Several,
    Swallowing,
    Tanh,
    Turned,
)


def _read_around_a_change(m: Written, x: torch.Tensor) -> torch.Tensor:
    changed = x * 1
    before = changed.sigmoid()
    return Turned.apply(changed).view(4, 16) + changed + before


def _not_materialized(m: Written, x: torch.Tensor) -> torch.Tensor:
    return Several.apply(x)[0]


def _in_autocast(m: Written, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return Multiplied.apply(x, m.weight).float()


class Multiplied(torch.autograd.Function):
    """Its product is in lower precision under autocast."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x.data_ptr()
        ctx.save_for_backward(x, weight)
        return x @ torch.eye(16) * weight

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        gradient = (gradient @ torch.eye(16)).float()
        return gradient * weight, (gradient * x).sum(0)


FORWARDS: dict[str, Callable[[Written, torch.Tensor], torch.Tensor]] = {
    "argument": lambda m, x: Scaled.apply(x, 3.0),
    "saved result": lambda m, x: Tanh.apply(x),
    "saved view": lambda m, x: Normalized.apply(x, m.weight),
    "gradients into saved tensors": lambda m, x: Gated.apply(x.sin(), x.cos()),
    "changed argument": _read_around_a_change,
    "marked change": lambda m, x: Doubled.apply(x * 1),
    "several results": _not_materialized,
    "only the backward": lambda m, x: OnlyBackward.apply(x),
    "errors caught inside": lambda m, x: Swallowing.apply(x),
    "values read": lambda m, x: Reading.apply(x),
    "draws": lambda m, x: nn.functional.dropout(Dropped.apply(nn.functional.dropout(x, 0.2)), 0.2),
    "autocast": _in_autocast,
}


def _model(between: Callable[[Written, torch.Tensor], torch.Tensor]) -> Written:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        for layer in m.layers:
            x = x + between(m, layer(x).tanh())
        return mean_square(x)

    torch.manual_seed(0)
    layers = nn.ModuleList(linear() for _ in range(3))
    return Written(forward, layers=layers, weight=nn.Parameter(torch.rand(16)))


def _least(model: nn.Module, x: torch.Tensor) -> Schedule:
    """The schedule of the least budget."""
    step = trace_step(model, (x,), {}, settings=Settings(solver="greedy", time_limit=1.0))
    try:
        return schedule_step(step, 1)
    except InfeasibleBudgetError as error:
        return schedule_step(step, error.minimum)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORWARDS)
def test_bits_and_peak_are_as_promised(name: str):
    model, x = _model(FORWARDS[name]), noise()
    schedule = _least(model, x)
    assert any("runs as it is" in (op.pinned or "") for op in schedule.graph.ops)
    result = verify(model, schedule, (x,))
    assert result.identical, result.differences
    assert result.measured_peak_bytes <= schedule.budget
    if name not in ("values read", "draws"):  # NumPy's own memory is counted, but not seen by PyTorch's profiler
        assert result.measured_peak_bytes == result.predicted_peak_bytes


@pytest.mark.slow
def test_none_reaches_a_backward_that_asks_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Several, "materialize", False)
    model, x = _model(lambda m, x: Tanh.apply(Several.apply(Scaled.apply(x))[0])), noise()
    assert verify(model, _least(model, x), (x,)).identical


@pytest.mark.slow
def test_a_pure_function_is_recomputed_with_eagers_bits():
    register_function(Scaled, pure=True)
    try:
        model, x = _model(lambda m, x: Scaled.apply(x, 3.0).sin()), noise(64, 16)
        schedule = _least(model, x)
        assert verify(model, schedule, (x,)).identical
    finally:
        register_function(Scaled, pure=False)
    runs = [schedule.graph.ops[step].name for step in schedule.steps if schedule.graph.ops[step].kind == "Scaled"]
    assert len(runs) > len(set(runs))
