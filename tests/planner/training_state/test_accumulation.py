"""Steps that add their gradients to existing ones: what is planned, and what eager and the applied model really take."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.measurement.peak import measure_peak
from remat_planner.planner.training_state.constants import ACCUMULATED
from remat_planner.schedules import Schedule, TrainingState
from tests.planner.training_state.nets import BLOCKS, HEAD, Wide, on_gpu, planned

_ACCUMULATING = TrainingState(accumulate=True)


def _accumulating(budget: str, path: Path | None = None) -> tuple[Wide, torch.Tensor, Schedule]:
    torch.manual_seed(0)
    model, x = Wide(), torch.randn(96, 64)
    schedule = remat_planner.plan(model, (x,), budget=budget, solver="greedy", training=_ACCUMULATING)
    if path is not None:
        schedule.save(path)
        schedule = Schedule.load(path)
    assert isinstance(schedule, Schedule)
    return model, x, schedule


def _measured(model: nn.Module, x: torch.Tensor, schedule: Schedule) -> int:
    return schedule.graph.constant_bytes + measure_peak(lambda: model(x).backward())


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["100%", "85%"])
@pytest.mark.parametrize("loaded", [False, True])
def test_an_accumulating_step_takes_what_is_predicted(budget: str, loaded: bool, tmp_path: Path) -> None:
    model, x, schedule = _accumulating(budget, tmp_path / "s.json" if loaded else None)
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    assert schedule.graph.constants[ACCUMULATED] == gradients
    eager, ours = copy.deepcopy(model), remat_planner.apply_schedule(model, schedule)
    for module in (eager, ours):
        torch.manual_seed(1)
        for micro in range(3):
            module(x + micro).backward()
    for one, other in zip(eager.parameters(), ours.parameters(), strict=True):
        assert one.grad is None or torch.equal(one.grad, other.grad)
    measured = _measured(ours, x, schedule)
    assert measured == pytest.approx(schedule.peak_bytes, rel=0.005)
    assert measured <= schedule.budget
    assert len(ours._planned.programs) == 1
    ours.zero_grad()
    # The first step of an accumulation finds none and makes them.
    assert _measured(ours, x, schedule) - gradients <= schedule.peak_bytes
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical
    assert found.within_budget
    assert found.measured_peak_bytes == pytest.approx(found.predicted_peak_bytes, rel=0.005)


@pytest.mark.slow
def test_what_eager_takes_when_it_accumulates() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64)) for _ in range(4)))
    x = torch.randn(256, 64)

    def loss(output: torch.Tensor) -> torch.Tensor:
        return output.pow(2).mean()

    def step() -> object:
        output = model(x)
        (value := loss(output)).backward()
        return output, value

    schedule = remat_planner.plan(model, (x,), loss=loss, budget="100%", solver="none", training=_ACCUMULATING)
    step()
    measured = schedule.graph.constant_bytes + measure_peak(step)
    assert measured == pytest.approx(schedule.baseline_peak_bytes, rel=0.002)


@pytest.mark.slow
def test_a_plan_without_accumulation_takes_more_when_it_accumulates() -> None:
    # What the option is there for: the budget of a plan that was not told is exceeded.
    model, x, told = _accumulating("100%")
    untold = remat_planner.plan(model, (x,), budget=told.peak_bytes - 1, solver="greedy")
    assert isinstance(untold, Schedule)
    ours = remat_planner.apply_schedule(model, untold)
    ours(x).backward()
    there = sum(p.grad.nbytes for p in ours.parameters() if p.grad is not None)
    assert there + _measured(ours, x, untold) > untold.peak_bytes


@pytest.mark.slow
def test_accumulation_in_shards_and_another_dtype() -> None:
    graph = planned(accumulate=True, gradient_dtype="float32").graph
    assert graph.constants[ACCUMULATED] == on_gpu(4, *BLOCKS, HEAD)
    assert graph.lasting_bytes < planned(gradient_dtype="float32").graph.lasting_bytes
    sharded = planned(accumulate=True, shard=4).graph
    assert sharded.constants[ACCUMULATED] == on_gpu(2, 17 * 64, 16 * 65, 16 * 64, 3 * 64)


@pytest.mark.slow
def test_regions_that_accumulate() -> None:
    model, x, _ = _accumulating("100%")
    options = {"regions": "layers.*", "time_limit": 5.0}
    found = remat_planner.plan(model, (x,), budget="100%", training=_ACCUMULATING, **options)
    assert isinstance(found, remat_planner.RegionSchedule)
    assert found.constants[ACCUMULATED] == sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    verified = remat_planner.verify(model, found, (x,))
    assert verified.identical
    assert verified.within_budget
