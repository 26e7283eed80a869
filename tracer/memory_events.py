"""Every allocation that a call makes on the CPU, kernel workspaces included, as PyTorch's profiler sees them.

Tensors alone do not show what a kernel takes: oneDNN scratchpads, im2col buffers, the scalars that ``x + 1`` wraps. All of
them go through PyTorch's CPU allocator, and the profiler records each with its address. What a library takes past that
allocator (MKL's packing buffers, OpenMP stacks) is seen by nobody here and counted nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch._C._profiler import _EventType  # the addresses are in the event tree only, which has no public name
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class MemoryTrace:
    """Bytes on the CPU above what was allocated when the call began.

    Attributes:
        peak: highest of them during the call, never below 0.
        held: bytes that the call allocated and did not free (its result, when the result is kept).
    """

    peak: int
    held: int


def record_memory(fn: Callable[[], Result]) -> tuple[Result, MemoryTrace]:
    """Run ``fn`` and record what it allocates on the CPU. The result is kept alive until the recording ends.

    Memory from before the call that ``fn`` frees is not subtracted: the profiler does not know its size.

    Raises:
        RuntimeError: another profiler is running.
    """
    # Kineto writes progress lines to stderr, read once from here; a user who set the variable keeps his choice.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = fn()
    return result, _trace(profiler.profiler.kineto_results.experimental_event_tree())


def _trace(roots: list[Any]) -> MemoryTrace:
    changes = _changes(roots)
    # A free whose allocation was not recorded belongs to memory from before the call. It must be told by its address: the
    # profiler keeps a table of sizes between recordings and would report a stale size for an address that was used again.
    sizes: dict[int, int] = {}
    live = peak = 0
    for _, address, size in changes:
        if size > 0:
            sizes[address] = size
            live += size
            peak = max(peak, live)
        else:
            live -= sizes.pop(address, 0)
    return MemoryTrace(peak=peak, held=live)


def _changes(roots: list[Any]) -> list[tuple[int, int, int]]:
    """(time in ns, address, bytes) of each allocation (positive) and free (negative) on the CPU, in order of time."""
    found: list[tuple[int, int, int]] = []
    stack = list(roots)
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag == _EventType.Allocation and event.extra_fields.device == torch.device("cpu"):
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    found.sort(key=lambda change: change[0])
    return found
