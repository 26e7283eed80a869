"""Files written by earlier versions still load and mean the same; ``tests/data`` has one of each kind, written by version 0.1.

The profile and the schedule are of ``dropout_model``; the schedule by regions is of two blocks in a list ``blocks``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.tracer import capture, lower

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


@pytest.mark.slow
def test_every_call_is_found_in_an_old_profile() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", remat_planner.ProfileWarning)
        warnings.filterwarnings("ignore", message=".*there")  # another processor than the one that was measured
        graph = remat_planner.trace(
            dropout_model(), (torch.randn(256, 16),), loss=mean_square, costs=str(_DATA / "profile_format_1.json")
        )
    assert graph.ops


@pytest.mark.slow
def test_an_old_schedule_trains() -> None:
    model, inputs = dropout_model(), torch.randn(256, 16)
    schedule = remat_planner.Schedule.load(_DATA / "schedule_format_1.json")
    assert schedule.peak_bytes <= schedule.budget
    assert remat_planner.verify(model, schedule, (inputs,)).identical


def with_origin(file: str, folder: Path, **fields: Any) -> Path:
    """A copy of the file in ``folder`` whose origin has these ``fields`` too."""
    document = json.loads((_DATA / file).read_text(encoding="utf-8"))
    document["origin"] |= fields
    (folder / file).write_text(json.dumps(document), encoding="utf-8")
    return folder / file


# What version 0.1 wrote into the origin for each option of the training state that was not the default.
TRAINING_OPTIONS = {
    "sharded": {"gradient_dtype": "float32", "master_weights": True, "shard": 2, "zero_stage": 2, "optimizer_offload": True},
    "in buckets": {"accumulate": True, "gradient_buckets": "views"},
    "one option": {"shard": 4},
}


@pytest.mark.parametrize("options", TRAINING_OPTIONS.values(), ids=TRAINING_OPTIONS)
@pytest.mark.parametrize("file", ["schedule_format_1.json", "region_schedule_format_1.json"])
def test_the_training_options_of_an_old_schedule_are_its_training_state(
    file: str, options: dict[str, Any], tmp_path: Path
) -> None:
    kind = remat_planner.RegionSchedule if file.startswith("region") else remat_planner.Schedule
    schedule = kind.load(with_origin(file, tmp_path, **options))
    assert schedule.origin.training == remat_planner.TrainingState(**options)
    assert schedule.origin.model == kind.load(_DATA / file).origin.model
    schedule.save(tmp_path / "written now.json")
    assert kind.load(tmp_path / "written now.json").origin == schedule.origin
    assert "training" in json.loads((tmp_path / "written now.json").read_text(encoding="utf-8"))["origin"]


def test_an_old_schedule_without_training_options_has_the_default_training_state() -> None:
    schedule = remat_planner.Schedule.load(_DATA / "schedule_format_1.json")
    assert schedule.origin.training == remat_planner.TrainingState()


def test_an_old_sharded_schedule_is_not_verified_in_one_process(tmp_path: Path) -> None:
    schedule = remat_planner.Schedule.load(with_origin("schedule_format_1.json", tmp_path, shard=2))
    with pytest.raises(remat_planner.TrainingStateError, match="shards over 2 ranks"):
        remat_planner.verify(dropout_model(), schedule, (torch.randn(256, 16),))


def test_training_options_that_mean_nothing_are_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(remat_planner.ScheduleFileError, match=r"origin\.training: .*0 is not a number of ranks"):
        remat_planner.Schedule.load(with_origin("schedule_format_1.json", tmp_path, shard=0))


@pytest.mark.slow
def test_an_old_schedule_by_regions_trains() -> None:
    model, inputs = TwoBlocks(), torch.randn(256, 16)
    schedule = remat_planner.RegionSchedule.load(_DATA / "region_schedule_format_1.json")
    assert set(schedule.regions) == {"blocks.0", "blocks.1"}
    assert remat_planner.verify(model, schedule, (inputs,)).identical


@pytest.mark.slow
def test_an_early_schedule_of_shared_weights_trains() -> None:
    layer, x = nn.Linear(16, 16), torch.randn(32, 16)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    graph = lower(capture(model, (x,), loss=mean_square), sums_in_place=False).graph
    steps = tuple(range(len(graph.ops)))
    early = remat_planner.Schedule(graph, steps, budget=10**9, solver="none", status="feasible", bound_seconds=0.0)
    assert graph.fingerprint != lower(capture(model, (x,), loss=mean_square)).graph.fingerprint
    assert remat_planner.verify(model, early, (x,), loss=mean_square).identical


def test_the_kinds_are_told_apart() -> None:
    with pytest.raises(remat_planner.ScheduleFileError, match=r"RegionSchedule\.load"):
        remat_planner.Schedule.load(_DATA / "region_schedule_format_1.json")
    with pytest.raises(remat_planner.ScheduleFileError, match=r"Schedule\.load"):
        remat_planner.RegionSchedule.load(_DATA / "schedule_format_1.json")
