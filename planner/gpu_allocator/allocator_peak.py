"""The peak of a schedule as the GPU's allocator counts it, which is what a budget on a GPU limits.

The allocator hands out a cached block whole if at most 1 MiB of it would remain, and reserves more than it hands out. Both
depend on the order of all allocations, which no solver sees; replaying the schedule shows them.

The replay is that of a fresh process. A real one has cached blocks from before the step (parameters that were converted, other
steps, an evaluation), some of which are handed out whole: on an H200, a ResNet-50 planned to take 3.85 GB took 5 MiB more. The
peak has a margin for that. Expandable segments need none, as every block is then cut to size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from remat_planner.planner.gpu_allocator.caching_allocator import MIB, SMALL, CachingAllocator
from remat_planner.planner.gpu_allocator.replay import expandable_segments_are_set, replay
from remat_planner.schedules import Graph, simulate

_MARGIN_SHARE = 0.01
"""The margin for cached blocks is at most this share of the bytes handed out. The most ever measured is 5 MiB of 3.85 GB."""

_MARGIN_BYTES = 64 * MIB
"""And at most these bytes."""

AllocatorPeak = Callable[[Sequence[int]], int]
"""Peak bytes of a sequence of op executions."""


def allocator_peak(graph: Graph, *, reserved: bool) -> AllocatorPeak:
    """A function from a schedule of ``graph`` to its peak bytes by the allocator's rules, set as in this environment.

    With ``reserved`` these are the bytes reserved in a fresh process, else those handed out at most in one with cached blocks.
    """
    expandable = expandable_segments_are_set()
    worst = with_whole_blocks(graph)

    def peak(steps: Sequence[int]) -> int:
        allocator = replay(graph, steps, CachingAllocator(expandable_segments=expandable))
        fresh = max(allocator.reserved if reserved else allocator.peak_allocated, simulate(graph, steps).peak_bytes)
        if reserved or expandable:
            return fresh
        with_margin = fresh + min(int(fresh * _MARGIN_SHARE), _MARGIN_BYTES)
        return max(fresh, min(simulate(worst, steps).peak_bytes, with_margin))

    return peak


def with_whole_blocks(graph: Graph) -> Graph:
    """``graph`` with 1 MiB more in every block of more than 1 MiB, the most that cached blocks can add."""

    def whole(size: int) -> int:
        return size + MIB if size > SMALL else size

    return replace(
        graph,
        storages=tuple(replace(storage, bytes=whole(storage.bytes)) for storage in graph.storages),
        ops=tuple(replace(op, workspace=whole(op.workspace)) for op in graph.ops),
    )
