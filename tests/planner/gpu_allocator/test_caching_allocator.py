"""The allocator on paper against cases worked out by hand from PyTorch's rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.gpu_allocator.caching_allocator import MIB, CachingAllocator
from remat_planner.planner.gpu_allocator.replay import EXPANDABLE, Reserved, reserved_by
from remat_planner.planner.model_loading.fake_build import built_without_memory


def test_small_requests_share_segments_of_2_mib() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.allocate(1000) for _ in range(3)]
    assert [block.size for block in blocks] == [1024] * 3
    assert (allocator.reserved, allocator.allocated) == (2 * MIB, 3072)
    allocator.allocate(MIB)  # what is left of the first segment has room for one, not for two
    assert allocator.reserved == 2 * MIB
    allocator.allocate(MIB)
    assert allocator.reserved == 4 * MIB


def test_middle_requests_share_20_mib_and_large_ones_have_their_own() -> None:
    allocator = CachingAllocator()
    allocator.allocate(5 * MIB)
    allocator.allocate(3 * MIB)
    assert allocator.reserved == 20 * MIB
    assert allocator.allocate(11 * MIB).size == 12 * MIB  # 1 MiB left over is not worth a block of its own
    assert (allocator.reserved, allocator.allocated) == (20 * MIB, 20 * MIB)
    allocator.allocate(10 * MIB + 512)
    assert allocator.reserved == 32 * MIB


def test_the_smallest_block_that_fits_is_taken_and_neighbours_merge() -> None:
    allocator = CachingAllocator()
    first, second = allocator.allocate(12 * MIB), allocator.allocate(16 * MIB)
    allocator.free(second)
    allocator.free(first)
    assert allocator.allocate(11 * MIB + MIB // 2) is first
    one, other, third = (allocator.allocate(4 * MIB) for _ in range(3))  # all from the 16 MiB
    assert allocator.reserved == 28 * MIB
    for block in (one, third, other):
        allocator.free(block)
    assert allocator.allocate(16 * MIB).size == 16 * MIB
    assert allocator.reserved == 28 * MIB


def test_expandable_segments_grow_where_others_are_left_over() -> None:
    reserved = []
    for flag in (False, True):
        allocator = CachingAllocator(expandable_segments=flag)
        allocator.free(allocator.allocate(30 * MIB))
        allocator.allocate(45 * MIB)
        reserved.append(allocator.reserved)
    assert reserved == [30 * MIB + 46 * MIB, 60 * MIB]


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
