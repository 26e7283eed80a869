"""Gradient dtype, master weights and shards: what is there all the time, and what gradients take."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.errors import OptimizerError, TrainingStateError
from remat_planner.planner.gpu_allocator.replay import reserved_by
from remat_planner.planner.measurement.peak import measure_peak
from remat_planner.planner.reports.peak_memory import memory_at_peak
from remat_planner.planner.training_state.options import ACCUMULATED, BUCKETS, GATHERED, MASTER
from remat_planner.schedules import Schedule
from remat_planner.tracer.costs.devices import allocated_on_gpu


class Net(nn.Module):
    """Three numbered blocks and a head outside of them, in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in ((64, 65), (65, 64), (64, 64)))
        self.head = nn.Linear(64, 10, bias=False)
        self.to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 64] -> a number."""
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x).sum()


_BLOCKS = (65 * 64, 64 * 65, 64 * 64)
_HEAD = 10 * 64
_ALL = sum(_BLOCKS) + _HEAD


def _planned(**options: object) -> Schedule:
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    return remat_planner.plan(Net(), (x,), budget="100%", costs="h100", solver="none", **options)  # type: ignore[arg-type]


def _gradient_bytes(schedule: Schedule) -> int:
    return schedule.graph.lasting_bytes - _planned().graph.lasting_bytes + _on_gpu(2, *_BLOCKS, _HEAD)


def _on_gpu(itemsize: int, *counts: int) -> int:
    return sum(allocated_on_gpu(itemsize * count) for count in counts)


def test_master_weights_are_float32_copies() -> None:
    schedule = _planned(master_weights=True)
    assert schedule.graph.constants[MASTER] == _on_gpu(4, *_BLOCKS, _HEAD)
    assert memory_at_peak(schedule)[MASTER] == schedule.graph.constants[MASTER]
    assert schedule.origin.master_weights


def test_the_optimizer_steps_on_the_master_weights() -> None:
    alone = _planned(optimizer="adamw:fused=True").graph
    assert alone.constants["optimizer"] == 2 * 2 * _ALL + 4 * 4
    masters = _planned(optimizer="adamw:fused=True", master_weights=True).graph
    assert masters.constants["optimizer"] == 2 * 4 * _ALL + 4 * 4
    assert masters.update >= 4 * _ALL  # gradients in float32 for the step
    both = _planned(optimizer="adamw:fused=True", master_weights=True, gradient_dtype="float32").graph
    assert both.update < _ALL  # they are there


def test_gradients_of_another_dtype() -> None:
    schedule = _planned(gradient_dtype="float32")
    assert _gradient_bytes(schedule) == _on_gpu(4, *_BLOCKS, _HEAD)
    assert schedule.origin.gradient_dtype == "float32"
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    with pytest.raises(TrainingStateError, match="float32"):
        remat_planner.verify(Net(), schedule, (x,))


def test_shards_have_whole_rows() -> None:
    schedule = _planned(shard=4, optimizer="adamw:fused=True")
    locals_ = (17 * 64, 16 * 65, 16 * 64, 3 * 64)  # ceil of a fourth of 65, 64, 64 and 10 rows
    local = sum(locals_)
    graph = schedule.graph
    assert graph.constants["parameters"] == _on_gpu(2, *locals_)
    assert graph.constants["optimizer"] == 2 * 2 * local + 4 * 4
    assert _gradient_bytes(schedule) == _on_gpu(2, *locals_)
    running = _BLOCKS[0] + _BLOCKS[1]
    assert graph.constants[GATHERED] == 2 * (_HEAD + running + _HEAD + _BLOCKS[0] + _BLOCKS[0])
    assert memory_at_peak(schedule)[GATHERED] == graph.constants[GATHERED]


def test_the_allocator_gets_shards_and_not_whole_parameters() -> None:
    whole, shards = reserved_by(_planned()), reserved_by(_planned(shard=64))
    assert whole is not None
    assert shards is not None
    schedule = _planned(shard=64)
    assert schedule.peak_bytes <= shards.allocated_bytes <= schedule.budget
    assert shards.allocated_bytes - schedule.graph.constants[GATHERED] < whole.allocated_bytes


def test_a_sharded_plan_is_kept_in_its_file_and_put_on_the_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    _planned(shard=4).save(tmp_path / "s.json")
    loaded = Schedule.load(tmp_path / "s.json")
    assert loaded.origin.shard == 4
    model = Net()
    planned = remat_planner.apply_schedule(model, loaded)
    assert torch.equal(planned(x), model(x))
    with pytest.raises(TrainingStateError, match="4 ranks"):
        remat_planner.verify(model, loaded, (x,))


@pytest.mark.parametrize(
    "options",
    [
        {"shard": 0},
        {"shard": 1.5},
        {"gradient_dtype": "int8"},
        {"gradient_dtype": "half32"},
        {"zero_stage": 4, "shard": 2},
        {"zero_stage": 1},
        {"gradient_buckets": "flat"},
        {"gradient_buckets": "copied", "gradient_dtype": "float32"},
        {"gradient_buckets": "views", "shard": 2},
        {"gradient_buckets": "views", "shard": 2, "zero_stage": 2},
    ],
)
def test_what_means_nothing(options: dict[str, object]) -> None:
    with pytest.raises(TrainingStateError, match=r"1 or more|float32|1, 2 or 3|shard=8|copied|out gradient_dtype and shard"):
        _planned(**options)


def test_stages_of_zero() -> None:
    options = {"shard": 4, "optimizer": "adamw:fused=True", "master_weights": True}
    whole, stages = _planned().graph, {stage: _planned(zero_stage=stage, **options).graph for stage in (1, 2, 3)}
    locals_ = (17 * 64, 16 * 65, 16 * 64, 3 * 64)
    for graph in stages.values():
        assert graph.constants["optimizer"] == 2 * 4 * sum(locals_) + 4 * 4
        assert graph.constants[MASTER] == _on_gpu(4, *locals_)
    assert stages[1].constants["parameters"] == stages[2].constants["parameters"] == whole.constants["parameters"]
    assert stages[3].constants["parameters"] == _on_gpu(2, *locals_)
    assert stages[1].lasting_bytes == whole.lasting_bytes
    assert whole.lasting_bytes - stages[2].lasting_bytes == _on_gpu(2, *_BLOCKS, _HEAD) - _on_gpu(2, *locals_)
    assert stages[2].lasting_bytes == stages[3].lasting_bytes
    assert GATHERED not in stages[1].constants
    # Gradients: those outside of blocks, those of a block, and its flat form.
    assert stages[2].constants[GATHERED] == 2 * (_HEAD + _BLOCKS[0] + _BLOCKS[0])
    assert stages[3].constants[GATHERED] > stages[2].constants[GATHERED]


def test_an_optimizer_on_the_host_takes_nothing() -> None:
    here = _planned(optimizer="adamw", master_weights=True)
    away = _planned(optimizer="adamw", master_weights=True, optimizer_offload=True)
    assert away.graph.constants["optimizer"] == away.graph.constants[MASTER] == away.graph.update == 0
    assert away.origin.optimizer_offload
    state = here.graph.constants["optimizer"] + here.graph.constants[MASTER]
    assert here.graph.constant_bytes - away.graph.constant_bytes == state > 0
    with pytest.raises(OptimizerError, match="adamw"):
        _planned(optimizer="adamw9", optimizer_offload=True)


def test_an_optimizer_on_the_host_of_a_cpu_is_refused() -> None:
    with pytest.raises(TrainingStateError, match="same memory"):
        remat_planner.plan(Net(), (torch.randn(4, 64, dtype=torch.bfloat16),), budget="100%", optimizer_offload=True)


# ---------------------------------------------------------------------------------------------------- gradient buckets


def test_buckets_are_there_all_the_time_and_may_have_the_gradients_in_them() -> None:
    plain, copied, views = (_planned(gradient_buckets=kind) for kind in (None, "copied", "views"))
    for schedule in (copied, views):
        assert schedule.graph.constants[BUCKETS] == memory_at_peak(schedule)[BUCKETS] == 2 * _ALL
        assert schedule.graph.constant_bytes - plain.graph.constant_bytes == 2 * _ALL
    assert copied.graph.lasting_bytes == plain.graph.lasting_bytes
    assert plain.graph.lasting_bytes - views.graph.lasting_bytes == _on_gpu(2, *_BLOCKS, _HEAD)
    assert views.peak_bytes < copied.peak_bytes
    assert (copied.origin.gradient_buckets, views.origin.gradient_buckets) == ("copied", "views")


def test_what_is_not_trained_is_in_no_bucket() -> None:
    model = Wide()
    schedule = remat_planner.plan(model, (torch.randn(8, 64),), budget="100%", solver="none", gradient_buckets="copied")
    assert schedule.graph.constants[BUCKETS] == sum(p.nbytes for p in model.parameters() if p.requires_grad)


def test_gradients_accumulate_in_the_buckets_where_they_are_kept_in_them() -> None:
    copied, views = (_planned(gradient_buckets=kind, accumulate=True).graph for kind in ("copied", "views"))
    assert copied.constants[ACCUMULATED] == _on_gpu(2, *_BLOCKS, _HEAD)
    assert ACCUMULATED not in views.constants
    assert copied.lasting_bytes == views.lasting_bytes


def test_buckets_and_an_optimizer_in_shards() -> None:
    graph = _planned(gradient_buckets="copied", shard=4, zero_stage=1, optimizer="adamw").graph
    assert graph.constants[BUCKETS] == 2 * _ALL
    assert graph.constants["optimizer"] < _planned(optimizer="adamw").graph.constants["optimizer"] / 3


def test_gradients_in_buckets_are_not_those_of_one_process(tmp_path: Path) -> None:
    model, x = Wide(), torch.randn(8, 64)
    remat_planner.plan(model, (x,), budget="100%", solver="none", gradient_buckets="views").save(tmp_path / "s.json")
    with pytest.raises(TrainingStateError, match="buckets of DistributedDataParallel"):
        remat_planner.verify(model, Schedule.load(tmp_path / "s.json"), (x,))


# ---------------------------------------------------------------------------------------------------- accumulation


class Wide(nn.Module):
    """Parameters that weigh as much as activations, one of them shared and one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)) for _ in range(3))
        self.norm = nn.LayerNorm(64)
        self.layers[2][0].weight = self.layers[0][0].weight
        self.layers[1][0].weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 64] -> a number."""
        for layer in self.layers:
            x = self.norm(x + torch.nn.functional.dropout(layer(x), 0.1))
        return x.pow(2).mean()


def _accumulating(budget: str, path: Path | None = None) -> tuple[Wide, torch.Tensor, Schedule]:
    torch.manual_seed(0)
    model, x = Wide(), torch.randn(96, 64)
    schedule = remat_planner.plan(model, (x,), budget=budget, solver="greedy", accumulate=True)
    if path is not None:
        schedule.save(path)
        schedule = Schedule.load(path)
    assert isinstance(schedule, Schedule)
    return model, x, schedule


def _measured(model: nn.Module, x: torch.Tensor, schedule: Schedule) -> int:
    return schedule.graph.constant_bytes + measure_peak(lambda: model(x).backward())


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

    schedule = remat_planner.plan(model, (x,), loss=loss, budget="100%", solver="none", accumulate=True)
    step()
    measured = schedule.graph.constant_bytes + measure_peak(step)
    assert measured == pytest.approx(schedule.baseline_peak_bytes, rel=0.002)


def test_a_plan_without_accumulation_takes_more_when_it_accumulates() -> None:
    # What the option is there for: the budget of a plan that was not told is exceeded.
    model, x, told = _accumulating("100%")
    untold = remat_planner.plan(model, (x,), budget=told.peak_bytes - 1, solver="greedy")
    assert isinstance(untold, Schedule)
    ours = remat_planner.apply_schedule(model, untold)
    ours(x).backward()
    there = sum(p.grad.nbytes for p in ours.parameters() if p.grad is not None)
    assert there + _measured(ours, x, untold) > untold.peak_bytes


def test_accumulation_in_shards_and_another_dtype() -> None:
    graph = _planned(accumulate=True, gradient_dtype="float32").graph
    assert graph.constants[ACCUMULATED] == _on_gpu(4, *_BLOCKS, _HEAD)
    assert graph.lasting_bytes < _planned(gradient_dtype="float32").graph.lasting_bytes
    sharded = _planned(accumulate=True, shard=4).graph
    assert sharded.constants[ACCUMULATED] == _on_gpu(2, 17 * 64, 16 * 65, 16 * 64, 3 * 64)


def test_regions_that_accumulate() -> None:
    model, x, _ = _accumulating("100%")
    options = {"regions": "layers.*", "time_limit": 5.0}
    found = remat_planner.plan(model, (x,), budget="100%", accumulate=True, **options)
    assert isinstance(found, remat_planner.RegionSchedule)
    assert found.constants[ACCUMULATED] == sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    verified = remat_planner.verify(model, found, (x,))
    assert verified.identical
    assert verified.within_budget


def test_shards_of_a_model_without_numbered_blocks() -> None:
    linear = nn.Linear(64, 64, bias=False)
    schedule = remat_planner.plan(linear, (torch.randn(4, 64),), budget="100%", costs="h100", solver="none", shard=4)
    assert isinstance(schedule, Schedule)
    assert schedule.graph.constants[GATHERED] == 3 * 4 * 64 * 64  # it, its gradient and the flat form of that
