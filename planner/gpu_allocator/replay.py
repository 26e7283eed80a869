"""Replays the allocations of a schedule on a model of the GPU's allocator."""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Sequence

from remat_planner.planner.gpu_allocator.caching_allocator import Block, CachingAllocator
from remat_planner.schedules import Graph, lifetimes

_BITS = re.compile(r"\d+")


def replay(graph: Graph, steps: Sequence[int], allocator: CachingAllocator) -> CachingAllocator:
    """Run the allocations and frees of a step by ``steps`` on ``allocator``, and return it.

    Constants are allocated first. Each step then allocates what it writes, allocates and frees its workspace, and frees the
    storages that it is the last to use.
    """
    for size in _constant_sizes(graph):
        allocator.allocate(size)
    pieces = lifetimes(graph, steps)
    born, dying = defaultdict(list), defaultdict(list)
    for piece, (birth, death, size) in enumerate(zip(pieces.birth, pieces.death, pieces.bytes, strict=True)):
        if size:
            born[int(birth)].append(piece)
            dying[int(death)].append(piece)
    blocks: dict[int, Block] = {}
    for step, i in enumerate(steps):
        for piece in born[step]:
            blocks[piece] = allocator.allocate(int(pieces.bytes[piece]))
        if workspace := graph.actions[i].workspace:
            allocator.free(allocator.allocate(workspace))
        for piece in dying[step]:
            allocator.free(blocks.pop(piece))
    return allocator


def expandable_segments_are_set() -> bool:
    """Whether the environment sets the allocator to expandable segments."""
    settings = (os.environ.get(name, "") for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    return any("expandable_segments:true" in setting.lower().replace(" ", "") for setting in settings)


def itemsize(dtype: str) -> int:
    """Bytes of an element of a torch dtype, from its name: 2 for "bfloat16", 1 for "bool" and "float8_e5m2"."""
    bits = _BITS.search(dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


def _constant_sizes(graph: Graph) -> list[int]:
    """Bytes of each parameter, buffer and input; whatever else is constant (optimizer state) is one more allocation.

    Parameters in shards have other sizes than the graph's values: all constants are then one allocation.
    """
    sizes: dict[int, int] = {}
    for value in graph.values:
        if graph.storages[value.storage].constant:
            size = math.prod(value.shape) * itemsize(value.dtype)
            sizes[value.storage] = max(size, sizes.get(value.storage, 0))
    tensors = [size for size in sizes.values() if size]
    rest = graph.constant_bytes - sum(tensors)
    if rest < 0:
        return [graph.constant_bytes]
    return [*tensors, rest] if rest else tensors
