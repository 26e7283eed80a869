"""How much a schedule makes the GPU's allocator reserve, and how much less it would be with expandable segments."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import torch

from planner.caching_allocator import Block, CachingAllocator
from schedules import Graph, Schedule, lifetimes
from tracer.devices import DEVICES

EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
"""The allocator's setting, in the environment; from torch 2.9 on also called PYTORCH_ALLOC_CONF."""


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
        """The allocator's setting that makes it reserve less, or None."""
        return EXPANDABLE if self.expandable_bytes < self.bytes else None


def reserved_by(schedule: Schedule) -> Reserved | None:
    """What ``schedule`` reserves on the GPU that it is for; None for a plan for a CPU, whose allocator reserves nothing."""
    origin = schedule.origin
    if origin.device == "cpu" and origin.costs.lower() not in DEVICES:
        return None
    default, expandable = (_run(schedule, CachingAllocator(expandable_segments=flag)) for flag in (False, True))
    return Reserved(default.reserved, expandable.reserved, default.peak_allocated)


def _run(schedule: Schedule, allocator: CachingAllocator) -> CachingAllocator:
    """The schedule's allocations in order: an op's results, its workspace meanwhile, then what it was the last to need."""
    graph = schedule.graph
    for size in _constants(graph):
        allocator.allocate(size)
    pieces = lifetimes(graph, schedule.steps)
    born, dying = defaultdict(list), defaultdict(list)
    for piece, (birth, death, size) in enumerate(zip(pieces.birth, pieces.death, pieces.bytes, strict=True)):
        if size:
            born[int(birth)].append(piece)
            dying[int(death)].append(piece)
    held: dict[int, Block] = {}
    for step, op in enumerate(schedule.steps):
        for piece in born[step]:
            held[piece] = allocator.allocate(int(pieces.bytes[piece]))
        if workspace := graph.ops[op].workspace:
            allocator.free(allocator.allocate(workspace))
        for piece in dying[step]:
            allocator.free(held.pop(piece))
    return allocator


def _constants(graph: Graph) -> list[int]:
    """Bytes of each parameter, buffer and input, and of all that has no tensor in the graph (optimizer state) as one."""
    sizes: dict[int, int] = {}
    for value in graph.values:
        if graph.storages[value.storage].constant:
            size = math.prod(value.shape) * getattr(torch, value.dtype).itemsize
            sizes[value.storage] = max(size, sizes.get(value.storage, 0))
    found = [size for size in sizes.values() if size]
    rest = graph.constant_bytes - sum(found)
    return [*found, rest] if rest > 0 else found
