"""Files written by earlier versions still load and mean the same; ``tests/data`` has one of each kind, written by version 0.1.

The profile and the schedule are of ``dropout_model``; the schedule by regions is of two blocks in a list ``blocks``.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner

_DATA = Path(__file__).parent / "data"


def dropout_model() -> nn.Module:
    """The model that was planned: the profile names a graph function for its dropout."""
    torch.manual_seed(0)
    layers = [nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 4)]
    return nn.Sequential(*layers)


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d = nn.Linear(16, 64), nn.Linear(64, 16), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.d(self.b(nn.functional.gelu(self.a(x))))


class TwoBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return mean_square(x)


def test_every_call_is_found_in_an_old_profile() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", remat_planner.ProfileWarning)
        warnings.filterwarnings("ignore", message=".*there")  # another processor than the one that was measured
        graph = remat_planner.trace(
            dropout_model(), (torch.randn(256, 16),), loss=mean_square, costs=str(_DATA / "profile_format_1.json")
        )
    assert graph.ops


def test_an_old_schedule_trains() -> None:
    model, inputs = dropout_model(), torch.randn(256, 16)
    schedule = remat_planner.Schedule.load(_DATA / "schedule_format_1.json")
    assert schedule.peak_bytes <= schedule.budget
    assert remat_planner.verify(model, schedule, (inputs,)).identical


def test_an_old_schedule_by_regions_trains() -> None:
    model, inputs = TwoBlocks(), torch.randn(256, 16)
    schedule = remat_planner.RegionSchedule.load(_DATA / "region_schedule_format_1.json")
    assert set(schedule.regions) == {"blocks.0", "blocks.1"}
    assert remat_planner.verify(model, schedule, (inputs,)).identical


def test_the_kinds_are_told_apart() -> None:
    with pytest.raises(remat_planner.ScheduleFileError, match=r"RegionSchedule\.load"):
        remat_planner.Schedule.load(_DATA / "region_schedule_format_1.json")
    with pytest.raises(remat_planner.ScheduleFileError, match=r"Schedule\.load"):
        remat_planner.RegionSchedule.load(_DATA / "schedule_format_1.json")
