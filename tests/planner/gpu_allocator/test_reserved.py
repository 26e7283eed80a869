"""What schedules reserve on a GPU, and when the report recommends the allocator's setting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.gpu_allocator.caching_allocator import MIB
from remat_planner.planner.gpu_allocator.reserved import EXPANDABLE, Reserved, reserved_by
from remat_planner.planner.model_loading.fake_build import built_without_memory


@pytest.mark.slow
def test_what_a_schedule_reserves() -> None:
    with built_without_memory():
        model = nn.Sequential(*(nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)) for _ in range(4)))
        x = torch.randn(4096, 1024)
    schedule = remat_planner.plan(model, (x,), budget="80%", loss=lambda y: y.square().mean(), costs="h100", time_limit=5)
    found = reserved_by(schedule)
    assert found is not None
    assert found.bytes >= found.allocated_bytes
    assert found.bytes % (2 * MIB) == found.expandable_bytes % (2 * MIB) == 0
    # Blocks that are handed out whole may be a little larger than asked for, never smaller.
    assert schedule.peak_bytes <= found.allocated_bytes <= 1.05 * schedule.peak_bytes


def test_the_setting_is_named_where_it_helps_only() -> None:
    assert Reserved(bytes=100, expandable_bytes=80, allocated_bytes=75).setting == EXPANDABLE
    assert Reserved(bytes=100, expandable_bytes=75, allocated_bytes=75).fragmentation == pytest.approx(0.25)
    assert Reserved(bytes=80, expandable_bytes=80, allocated_bytes=75).setting is None


def test_a_plan_for_a_cpu_reserves_nothing() -> None:
    schedule = remat_planner.plan(nn.Linear(4, 4), (torch.randn(2, 4),), budget="100%", loss=lambda y: y.sum(), time_limit=1)
    assert reserved_by(schedule) is None
