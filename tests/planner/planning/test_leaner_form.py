"""Plans that compute the two gradients of a convolution one after the other, where the budget asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.planning import Settings, schedule_step, trace_step
from remat_planner.schedules import load_schedule
from remat_planner.tracer.lower import pairs

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build has no mkldnn")


def _network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    wide = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*wide, nn.MaxPool2d(4), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()), torch.randn(8, 3, 32, 32)


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


@pytest.mark.slow
def test_less_memory_is_enough_and_only_where_needed_are_there_parts(tmp_path: Path):
    model, x = _network()
    step = trace_step(model, (x,), settings=Settings(loss=_loss, time_limit=5))
    schedule = schedule_step(step, "min")
    assert list(pairs(schedule.graph)) == ["2/backward/convolution_backward.0"], "the other convolution has room for both"
    with pytest.raises(remat_planner.InfeasibleBudgetError):
        remat_planner.plan(model, (x,), loss=_loss, budget=schedule.budget, solver="ilp", time_limit=5)
    assert schedule.overhead >= schedule.bound_overhead >= 0
    assert schedule.peak_bytes < 0.98 * schedule_step(step, "100%").peak_bytes
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical
    assert found.measured_peak_bytes <= schedule.budget

    path = tmp_path / "schedule.json"
    schedule.save(path)
    loaded = load_schedule(path)
    assert loaded.seconds == schedule.seconds
    planned = remat_planner.apply_schedule(model, loaded, loss=_loss)
    _loss(planned(x)).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    _loss(remat_planner.remove_schedule(planned)(x)).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


@pytest.mark.slow
def test_other_sizes_of_a_planned_step_have_parts_too():
    model, x = _network()
    schedule = remat_planner.plan(model, (x,), loss=_loss, budget="min", time_limit=5)
    planned = remat_planner.apply_schedule(model, schedule, loss=_loss)
    for batch in (6, 5, 7):
        other = torch.randn(batch, *x.shape[1:])
        gradients = []
        for module in (planned, model):
            model.zero_grad()
            _loss(module(other)).backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
        assert all(map(torch.equal, *gradients))
