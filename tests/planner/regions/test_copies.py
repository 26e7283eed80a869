"""Plans by regions with copies to a disk: one budget for all of them, also in the pool, and eager's bits."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import remat_planner
from remat_planner import CompilerError, Offload, OffloadError
from remat_planner.planner.regions import options, planned_regions
from remat_planner.planner.reports import plan_report, summarize_regions, usage_hint
from remat_planner.schedules import RegionSchedule
from remat_planner.solvers import Answer, Task
from remat_planner.solvers.milp import Moment, Room, select, select_lowest
from tests.planner.copying_solver import CopySaved
from tests.planner.regions.helpers import Block, decoder, gradients_after, same


@pytest.fixture(autouse=True)
def _quick_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two limits for each solver, and copies that need no search."""
    monkeypatch.setattr(options, "_COPYING_SOLVER", CopySaved())
    monkeypatch.setattr(options, "_RETAINED_SHARES", (0.35,))
    monkeypatch.setattr(options, "_PEAK_SHARES", (0.3,))


@pytest.mark.slow
def test_regions_copy_what_the_pool_has_room_for(tmp_path: Path) -> None:
    model, tokens = decoder(layers=2)
    eager = gradients_after(model, tokens)
    schedules = []
    for room in (700_000, 10**7):
        offload = Offload(disk=room, folder=tmp_path, disk_link="20GB/s")
        schedule = remat_planner.plan(model, (tokens,), budget="min", regions=Block, offload=offload, verify=False)
        assert isinstance(schedule, RegionSchedule)
        copied = schedule.pool_peak_bytes.get("disk", 0)
        assert copied <= room
        assert sum(form.graph.pools[0].budget for _, form, _ in schedule.forms if form.graph.pools) == copied
        schedules.append(schedule)
    less, schedule = schedules
    assert schedule.peak_bytes < less.peak_bytes
    assert 0 < less.pool_peak_bytes["disk"] < schedule.pool_peak_bytes["disk"]
    found = remat_planner.verify(model, schedule, (tokens,))
    assert found.identical, found.differences
    assert found.measured_peak_bytes == found.predicted_peak_bytes == schedule.peak_bytes
    assert found.pool_bytes == schedule.pool_peak_bytes
    with pytest.raises(CompilerError, match="copies activations to the disk"):
        remat_planner.apply_schedule(model, schedule, compiler="inductor")
    schedule.save(tmp_path / "plan.json")
    loaded = RegionSchedule.load(tmp_path / "plan.json")
    assert loaded.pool_peak_bytes == schedule.pool_peak_bytes
    with pytest.raises(OffloadError, match="disk_folder="):
        remat_planner.apply_schedule(model, loaded)(tokens)
    remat_planner.remove_schedule(model)
    planned = remat_planner.apply_schedule(model, loaded, disk_folder=tmp_path)
    for module in (planned, copy.deepcopy(planned), pickle.loads(pickle.dumps(planned))):
        assert same(gradients_after(module, tokens), eager)
    remat_planner.remove_schedule(model)
    summary = summarize_regions(schedule, path="plan.json")
    console = Console(file=io.StringIO(), width=200)
    console.print(plan_report(summary, understood=""), usage_hint(summary, disk_folder=tmp_path))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "copied each" in text
    assert f"disk_folder='{tmp_path}'" in text.replace("\n", "")


@pytest.mark.slow
def test_another_form_of_input_is_planned_within_the_regions_own_room(tmp_path: Path) -> None:
    model, tokens = decoder(layers=1)
    offload = Offload(disk=10**7, folder=tmp_path, disk_link="20GB/s")
    schedule = remat_planner.plan(model, (tokens,), budget="min", regions=Block, offload=offload, verify=False)
    planned = remat_planner.apply_schedule(model, schedule, replan_time_limit=0.1)
    ours = gradients_after(planned, tokens[:, :40], steps=1)
    (forward,) = planned_regions(planned).values()
    (program,) = (p for p in forward.planned.programs if p.schedule is not forward.schedule)
    assert program.schedule.graph.pools == forward.schedule.graph.pools
    assert program.schedule.graph.pools[0].budget == schedule.pool_peak_bytes["disk"]
    assert same(ours, gradients_after(remat_planner.remove_schedule(model), tokens[:, :40], steps=1))


@pytest.mark.slow
def test_without_time_to_compile_the_search_nothing_is_copied_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class TooLate(CopySaved):
        def solve(self, task: Task) -> Answer:
            return replace(super().solve(task.without_transfers()), note="no time")

    monkeypatch.setattr(options, "_COPYING_SOLVER", TooLate())
    model, tokens = decoder(layers=1)
    offload = Offload(disk="10MB", folder=tmp_path, disk_link="20GB/s")
    schedule = remat_planner.plan(model, (tokens,), budget="min", regions=Block, offload=offload, verify=False)
    assert schedule.pool_peak_bytes == {}
    assert "a region is planned without copies: no time" in caplog.text


def test_each_room_holds_what_is_chosen() -> None:
    costs = [[0.0, 1.0, 3.0]] * 3  # retain, copy, recompute
    moments = [Moment(0, dict.fromkeys(range(3), (10, 0, 0)))]
    copies = dict.fromkeys(range(3), (0, 8, 0))
    assert select(costs, moments, 10) is not None
    for size, cost in ((24, 2.0), (16, 2.0), (8, 4.0), (0, 6.0)):
        chosen = select(costs, moments, 10, rooms=[Room(size, copies)])
        assert chosen is not None
        assert sum(of[o] for of, o in zip(costs, chosen, strict=True)) == cost
        assert sum(copies[p][o] for p, o in enumerate(chosen)) <= size
    only_copies = [[0.0, 1.0]] * 3
    moments = [Moment(0, dict.fromkeys(range(3), (10, 0)))]
    assert sum(select_lowest(only_copies, moments, rooms=[Room(17, dict.fromkeys(range(3), (0, 8)))])) == 2
    assert select(only_copies, moments, 5, rooms=[Room(17, dict.fromkeys(range(3), (0, 8)))]) is None
