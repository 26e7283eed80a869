"""Applying a schedule by regions, from memory or from a file, to its model and to others."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import RegionSchedule
from remat_planner.planner.apply import is_applied
from remat_planner.planner.errors import AlreadyAppliedError
from remat_planner.planner.measurement import measure_peak
from remat_planner.planner.regions.forward import planned_regions
from remat_planner.schedules import Schedule, ScheduleFileError, StaleScheduleError
from remat_planner.schedules.files import load_schedule
from tests.planner.regions.helpers import Block, decoder


@pytest.mark.slow
def test_two_schedules_on_one_model_are_refused():
    model, tokens = decoder()
    schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    remat_planner.apply_schedule(model, schedule)
    assert is_applied(model)
    with pytest.raises(AlreadyAppliedError, match="remove_schedule"):
        remat_planner.apply_schedule(model, schedule)
    with pytest.raises(AlreadyAppliedError, match=r"layers\.0-2"):
        remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    assert remat_planner.verify(model, schedule, (tokens,)).identical
    assert len(planned_regions(model)) == 3


@pytest.mark.slow
def test_save_and_load(tmp_path: Path):
    model, tokens = decoder()
    schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    path = tmp_path / "it.schedule.json"
    schedule.save(path)
    distinct = {region.steps for region in schedule.regions.values()}
    assert len(json.loads(path.read_text())["schedules"]) == len(distinct) <= 3
    loaded = RegionSchedule.load(path)
    assert isinstance(load_schedule(path), RegionSchedule)
    assert loaded.peak_bytes == schedule.peak_bytes
    assert loaded.seconds == pytest.approx(schedule.seconds)
    assert {name: region.steps for name, region in loaded.regions.items()} == {
        name: region.steps for name, region in schedule.regions.items()
    }
    found = remat_planner.verify(model, loaded, (tokens,))
    assert found.identical, found.differences
    assert found.measured_peak_bytes <= loaded.budget
    with pytest.raises(ScheduleFileError, match=r"RegionSchedule\.load"):
        Schedule.load(path)
    content = json.loads(path.read_text())
    content["regions"]["layers.0"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(ScheduleFileError, match="damaged"):
        RegionSchedule.load(path)


@pytest.mark.slow
def test_another_model_is_refused():
    model, tokens = decoder()
    schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    smaller, _ = decoder(layers=2)
    with pytest.raises(StaleScheduleError, match=r"no module layers\.2"):
        remat_planner.apply_schedule(smaller, schedule)
    assert not is_applied(smaller)
    wider, _ = decoder(width=48)
    with pytest.raises(StaleScheduleError, match=r"layers\.0: .*up\.weight"):
        remat_planner.apply_schedule(wider, schedule)


def test_a_step_with_other_frozen_blocks_takes_no_more_bytes_than_the_planned_one():
    torch.manual_seed(0)
    model, x = nn.Sequential(*[Block() for _ in range(3)], nn.Linear(32, 4)), torch.randn(64, 32)
    eager = copy.deepcopy(model)
    loss = lambda output: output.square().mean()  # noqa: E731
    schedule = remat_planner.plan(model, (x,), budget="min", regions="*[0-2]", loss=loss, time_limit=1)
    assert list(schedule.regions) == ["0", "1", "2"]
    planned = remat_planner.apply_schedule(model, schedule)

    def step(net: nn.Module) -> None:
        torch.manual_seed(1)
        loss(net(x)).backward()

    for frozen in (0, 1, 2):
        for net in (planned, eager):
            for k in range(3):
                net[k].requires_grad_(k != frozen)
            net.zero_grad()
            step(net)
        for ours, theirs in zip(model.parameters(), eager.parameters(), strict=True):
            assert (ours.grad is None and theirs.grad is None) or torch.equal(ours.grad, theirs.grad)
        planned.zero_grad()
        eager.zero_grad()
        assert schedule.constant_bytes + measure_peak(lambda: step(planned)) <= schedule.budget
        assert schedule.constant_bytes + measure_peak(lambda: step(eager)) > schedule.budget
