"""The model of the allocator against cases worked out by hand from PyTorch's rules."""

from __future__ import annotations

from remat_planner.planner.gpu_allocator.caching_allocator import MIB, CachingAllocator


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
