"""How much a schedule makes the GPU's allocator reserve, and how much less it would be with expandable segments."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from remat_planner.planner.gpu_allocator.caching_allocator import Block, CachingAllocator
from remat_planner.schedules import Graph, Schedule, lifetimes

EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
"""The allocator's setting, in the environment; from torch 2.9 on also called PYTORCH_ALLOC_CONF."""

_WORTH_SAYING = 0.03  # of the reserved bytes: a fragmentation of less is no reason to change a setting


@dataclass(frozen=True)
class Reserved:
    """What a step reserves, predicted by the allocator's rules for a fresh process on one stream.

    Attributes:
        bytes: taken from the driver at the most, with the allocator's default settings.
        expandable_bytes: the same with expandable segments.
        allocated_bytes: handed out at the most.
    """

    bytes: int
    expandable_bytes: int
    allocated_bytes: int

    @property
    def fragmentation(self) -> float:
        """Share of the reserved bytes that is not handed out at the peak."""
        return 1 - self.allocated_bytes / self.bytes if self.bytes else 0.0

    @property
    def setting(self) -> str | None:
        """The allocator's setting that makes it reserve less, or None where there is little to gain."""
        helps = self.fragmentation > _WORTH_SAYING and self.expandable_bytes < self.bytes
        return EXPANDABLE if helps and not expandable_segments_are_set() else None


def expandable_segments_are_set() -> bool:
    """Whether this environment sets the allocator to expandable segments."""
    settings = (os.environ.get(name, "") for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    return any("expandable_segments:true" in setting.lower().replace(" ", "") for setting in settings)


def reserved_by(schedule: Schedule) -> Reserved | None:
    """What ``schedule`` reserves on the GPU that it is for; None for a plan for a CPU, whose allocator reserves nothing."""
    if schedule.origin.allocation_block == 1:
        return None
    default, expandable = (allocator_after(schedule.graph, schedule.steps, expandable_segments=flag) for flag in (False, True))
    return Reserved(default.reserved, expandable.reserved, default.peak_allocated)


def allocator_after(
    graph: Graph, steps: Sequence[int], *, expandable_segments: bool, allocator: CachingAllocator | None = None
) -> CachingAllocator:
    """The allocator, a fresh one unless given, after a step by ``steps``: an op's results, its workspace meanwhile, then what
    it was the last to need.
    """
    allocator = allocator or CachingAllocator(expandable_segments=expandable_segments)
    for size in _constants(graph):
        allocator.allocate(size)
    pieces = lifetimes(graph, steps)
    born, dying = defaultdict(list), defaultdict(list)
    for piece, (birth, death, size) in enumerate(zip(pieces.birth, pieces.death, pieces.bytes, strict=True)):
        if size:
            born[int(birth)].append(piece)
            dying[int(death)].append(piece)
    held: dict[int, Block] = {}
    for step, op in enumerate(steps):
        for piece in born[step]:
            held[piece] = allocator.allocate(int(pieces.bytes[piece]))
        if workspace := graph.ops[op].workspace:
            allocator.free(allocator.allocate(workspace))
        for piece in dying[step]:
            allocator.free(held.pop(piece))
    return allocator


def _constants(graph: Graph) -> list[int]:
    """Bytes of each parameter, buffer and input, and of all that has no tensor in the graph (optimizer state) as one.

    Parameters in shards are other tensors than the graph's: then all is taken as one.
    """
    sizes: dict[int, int] = {}
    for value in graph.values:
        if graph.storages[value.storage].constant:
            size = math.prod(value.shape) * getattr(torch, value.dtype).itemsize
            sizes[value.storage] = max(size, sizes.get(value.storage, 0))
    found = [size for size in sizes.values() if size]
    rest = graph.constant_bytes - sum(found)
    if rest < 0:
        return [graph.constant_bytes]
    return [*found, rest] if rest else found
