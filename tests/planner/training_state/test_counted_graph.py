"""Gradient dtype, master weights, shards and an optimizer on the host: the resident bytes, and those of gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.errors import OptimizerError
from remat_planner.planner.gpu_allocator.reserved import reserved_by
from remat_planner.planner.reports.peak_memory import memory_at_peak
from remat_planner.planner.training_state.constants import GATHERED, MASTER
from remat_planner.schedules import Schedule, TrainingState, TrainingStateError
from tests.planner.training_state.nets import ALL, BLOCKS, HEAD, Net, Wide, on_gpu, planned


def _gradient_bytes(schedule: Schedule) -> int:
    return schedule.graph.lasting_bytes - planned().graph.lasting_bytes + on_gpu(2, *BLOCKS, HEAD)


@pytest.mark.slow
def test_master_weights_are_float32_copies() -> None:
    schedule = planned(master_weights=True)
    assert schedule.graph.constants[MASTER] == on_gpu(4, *BLOCKS, HEAD)
    assert memory_at_peak(schedule)[MASTER] == schedule.graph.constants[MASTER]
    assert schedule.origin.training.master_weights


@pytest.mark.slow
def test_the_optimizer_steps_on_the_master_weights() -> None:
    alone = planned(optimizer="adamw:fused=True").graph
    assert alone.constants["optimizer"] == 2 * 2 * ALL + 4 * 4
    masters = planned(optimizer="adamw:fused=True", master_weights=True).graph
    assert masters.constants["optimizer"] == 2 * 4 * ALL + 4 * 4
    assert masters.update >= 4 * ALL  # gradients in float32 for the step
    both = planned(optimizer="adamw:fused=True", master_weights=True, gradient_dtype="float32").graph
    assert both.update < ALL  # they are there


@pytest.mark.slow
def test_gradients_of_another_dtype() -> None:
    schedule = planned(gradient_dtype="float32")
    assert _gradient_bytes(schedule) == on_gpu(4, *BLOCKS, HEAD)
    assert schedule.origin.training.gradient_dtype == "float32"
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    with pytest.raises(TrainingStateError, match="float32"):
        remat_planner.verify(Net(), schedule, (x,))


@pytest.mark.slow
def test_shards_have_whole_rows() -> None:
    schedule = planned(shard=4, optimizer="adamw:fused=True")
    locals_ = (17 * 64, 16 * 65, 16 * 64, 3 * 64)  # ceil of a fourth of 65, 64, 64 and 10 rows
    local = sum(locals_)
    graph = schedule.graph
    assert graph.constants["parameters"] == on_gpu(2, *locals_)
    assert graph.constants["optimizer"] == 2 * 2 * local + 4 * 4
    assert _gradient_bytes(schedule) == on_gpu(2, *locals_)
    running = BLOCKS[0] + BLOCKS[1]
    assert graph.constants[GATHERED] == 2 * (HEAD + running + HEAD + BLOCKS[0] + BLOCKS[0])
    assert memory_at_peak(schedule)[GATHERED] == graph.constants[GATHERED]


@pytest.mark.slow
def test_the_allocator_gets_shards_and_not_whole_parameters() -> None:
    whole, shards = reserved_by(planned()), reserved_by(planned(shard=64))
    assert whole is not None
    assert shards is not None
    schedule = planned(shard=64)
    assert schedule.peak_bytes <= shards.allocated_bytes <= schedule.budget
    assert shards.allocated_bytes - schedule.graph.constants[GATHERED] < whole.allocated_bytes


@pytest.mark.slow
def test_a_sharded_plan_is_kept_in_its_file_and_put_on_the_model(tmp_path: Path) -> None:
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    planned(shard=4).save(tmp_path / "s.json")
    loaded = Schedule.load(tmp_path / "s.json")
    assert loaded.origin.training.shard == 4
    model = Net()
    ours = remat_planner.apply_schedule(model, loaded)
    assert torch.equal(ours(x), model(x))
    with pytest.raises(TrainingStateError, match="4 ranks"):
        remat_planner.verify(model, loaded, (x,))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"shard": 4}, {"gradient_dtype": "bfloat16"}, {}], ids=["shard", "dtype", "none"])
def test_terms_of_a_sum_are_whole_whatever_is_retained_of_it(options: dict[str, object]) -> None:
    model, x = Wide(), torch.randn(8, 64)
    schedule = remat_planner.plan(
        model,
        (x,),
        budget="100%",
        costs="h100",
        solver="none",
        training=TrainingState(**options),  # type: ignore[arg-type]
    )
    assert isinstance(schedule, Schedule)
    graph = schedule.graph
    in_place = [op for op in graph.ops if op.pinned == "autograd adds up this gradient in place"]
    add = next(op for op in in_place if graph.values[op.writes[0]].shape == (96, 64))
    first, total = (graph.storages[graph.values[value].storage].bytes for value in (add.reads[0], add.writes[0]))
    assert first == 4 * 96 * 64
    assert total == {"shard": first // 4, "gradient_dtype": first // 2}.get(next(iter(options), ""), first)


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
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(TrainingStateError, match=r"1 or more|float32|1, 2 or 3|shard=8|copied|out gradient_dtype and shard"):
        planned(**options)


@pytest.mark.slow
def test_stages_of_zero() -> None:
    options = {"shard": 4, "optimizer": "adamw:fused=True", "master_weights": True}
    whole, stages = planned().graph, {stage: planned(zero_stage=stage, **options).graph for stage in (1, 2, 3)}
    locals_ = (17 * 64, 16 * 65, 16 * 64, 3 * 64)
    for graph in stages.values():
        assert graph.constants["optimizer"] == 2 * 4 * sum(locals_) + 4 * 4
        assert graph.constants[MASTER] == on_gpu(4, *locals_)
    assert stages[1].constants["parameters"] == stages[2].constants["parameters"] == whole.constants["parameters"]
    assert stages[3].constants["parameters"] == on_gpu(2, *locals_)
    assert stages[1].lasting_bytes == whole.lasting_bytes
    assert whole.lasting_bytes - stages[2].lasting_bytes == on_gpu(2, *BLOCKS, HEAD) - on_gpu(2, *locals_)
    assert stages[2].lasting_bytes == stages[3].lasting_bytes
    assert GATHERED not in stages[1].constants
    # Gradients: those outside of blocks, those of a block, and its flat form.
    assert stages[2].constants[GATHERED] == 2 * (HEAD + BLOCKS[0] + BLOCKS[0])
    assert stages[3].constants[GATHERED] > stages[2].constants[GATHERED]


@pytest.mark.slow
def test_an_optimizer_on_the_host_takes_nothing() -> None:
    here = planned(optimizer="adamw", master_weights=True)
    away = planned(optimizer="adamw", master_weights=True, optimizer_offload=True)
    assert away.graph.constants["optimizer"] == away.graph.constants[MASTER] == away.graph.update == 0
    assert away.origin.training.optimizer_offload
    state = here.graph.constants["optimizer"] + here.graph.constants[MASTER]
    assert here.graph.constant_bytes - away.graph.constant_bytes == state > 0
    with pytest.raises(OptimizerError, match="adamw"):
        planned(optimizer="adamw9", optimizer_offload=True)


def test_an_optimizer_on_the_host_of_a_cpu_is_refused() -> None:
    with pytest.raises(TrainingStateError, match="same memory"):
        remat_planner.plan(
            Net(), (torch.randn(4, 64, dtype=torch.bfloat16),), budget="100%", training=TrainingState(optimizer_offload=True)
        )


def test_shards_of_a_model_without_numbered_blocks() -> None:
    linear = nn.Linear(64, 64, bias=False)
    schedule = remat_planner.plan(
        linear, (torch.randn(4, 64),), budget="100%", costs="h100", solver="none", training=TrainingState(shard=4)
    )
    assert isinstance(schedule, Schedule)
    assert schedule.graph.constants[GATHERED] == 3 * 4 * 64 * 64  # it, its gradient and the flat form of that
