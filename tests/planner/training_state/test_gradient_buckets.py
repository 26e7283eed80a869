"""Buckets of ``DistributedDataParallel``: resident throughout, with copies of the gradients or the gradients themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import remat_planner
from remat_planner.planner.reports.peak_memory import memory_at_peak
from remat_planner.planner.training_state.constants import ACCUMULATED, BUCKETS
from remat_planner.planner.training_state.released_gradients import with_released_gradients
from remat_planner.schedules import Schedule, TrainingState, TrainingStateError
from remat_planner.tracer import capture
from remat_planner.tracer.lower import lower
from tests.planner.training_state.nets import ALL, BLOCKS, HEAD, Wide, on_gpu, planned


@pytest.mark.slow
def test_buckets_are_resident_throughout_and_views_hold_the_gradients() -> None:
    plain, copied, views = (planned(gradient_buckets=kind) for kind in (None, "copied", "views"))
    for schedule in (copied, views):
        assert schedule.graph.constants[BUCKETS] == memory_at_peak(schedule)[BUCKETS] == 2 * ALL
        assert schedule.graph.constant_bytes - plain.graph.constant_bytes == 2 * ALL
    assert copied.graph.lasting_bytes == plain.graph.lasting_bytes
    assert plain.graph.lasting_bytes - views.graph.lasting_bytes == on_gpu(2, *BLOCKS, HEAD)
    assert views.peak_bytes < copied.peak_bytes
    assert (copied.origin.training.gradient_buckets, views.origin.training.gradient_buckets) == ("copied", "views")


@pytest.mark.slow
def test_frozen_parameters_have_no_place_in_a_bucket() -> None:
    model = Wide()
    schedule = remat_planner.plan(
        model, (torch.randn(8, 64),), budget="100%", solver="none", training=TrainingState(gradient_buckets="copied")
    )
    assert schedule.graph.constants[BUCKETS] == sum(p.nbytes for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_gradients_accumulate_in_the_buckets_where_they_are_kept_in_them() -> None:
    copied, views = (planned(gradient_buckets=kind, accumulate=True).graph for kind in ("copied", "views"))
    assert copied.constants[ACCUMULATED] == on_gpu(2, *BLOCKS, HEAD)
    assert ACCUMULATED not in views.constants
    assert copied.lasting_bytes == views.lasting_bytes


@pytest.mark.slow
def test_buckets_and_an_optimizer_in_shards() -> None:
    graph = planned(gradient_buckets="copied", shard=4, zero_stage=1, optimizer="adamw").graph
    assert graph.constants[BUCKETS] == 2 * ALL
    assert graph.constants["optimizer"] < planned(optimizer="adamw").graph.constants["optimizer"] / 3


@pytest.mark.slow
def test_gradients_in_buckets_are_not_those_of_one_process(tmp_path: Path) -> None:
    model, x = Wide(), torch.randn(8, 64)
    remat_planner.plan(model, (x,), budget="100%", solver="none", training=TrainingState(gradient_buckets="views")).save(
        tmp_path / "s.json"
    )
    with pytest.raises(TrainingStateError, match="buckets of DistributedDataParallel"):
        remat_planner.verify(model, Schedule.load(tmp_path / "s.json"), (x,))


def test_gradients_that_are_released_are_computed_in_eagers_order() -> None:
    # What a gradient waits for, its turn, is counted for that order, also where other first executions move.
    joint = capture(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), (torch.randn(2, 4),))
    graph = lower(joint).graph
    of_gradients = {gradient.node.meta["name"] for gradient in joint.gradients if gradient.node is not None}
    assert not any(op.in_turn for op in graph.ops if op.name in of_gradients)
    released = with_released_gradients(graph, joint)
    assert {op.name for op in released.ops if op.in_turn and op.pinned is None} == of_gradients
