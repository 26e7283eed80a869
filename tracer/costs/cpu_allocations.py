"""Every allocation that a call makes on the CPU, kernel workspaces included, as PyTorch's profiler sees them.

Tensors alone do not show what a kernel takes: oneDNN scratchpads, im2col buffers, the scalars that ``x + 1`` wraps. All of
them go through PyTorch's CPU allocator, and the profiler records each with its address. What a library takes past that
allocator (MKL's packing buffers, OpenMP stacks) is seen by nobody here and counted nowhere.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch._C._profiler import _EventType
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


_MARK = "planner interval: "


def mark(label: str) -> None:
    """Begin the interval ``label`` of a recording by ``record_intervals``, here."""
    with torch.profiler.record_function(_MARK + label):
        pass


def record_intervals(fn: Callable[[], Result]) -> tuple[Result, list[tuple[str, int]], int]:
    """Run ``fn``, which marks intervals: the highest bytes in each, above those from before the call, and what it held at the
    end. The first interval, up to the first mark, is "".

    Raises:
        RuntimeError: another profiler is running.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = fn()
    roots = profiler.profiler.kineto_results.experimental_event_tree()
    events: list[tuple[int, str | tuple[int, int]]] = [(time, change) for time, *change in _changes(roots)]  # type: ignore[misc]
    events += [(event.start_time_ns, event.name.removeprefix(_MARK)) for event in _all(roots) if event.name.startswith(_MARK)]
    events.sort(key=lambda event: event[0])
    live = _Live()
    intervals = [("", 0)]
    for _, what in events:
        if isinstance(what, str):
            intervals.append((what, live.bytes))
            continue
        live.change(*what)
        intervals[-1] = (intervals[-1][0], max(intervals[-1][1], live.bytes))
    return result, intervals, live.bytes


def _all(roots: list[Any]) -> Iterator[Any]:
    stack = list(roots)
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        yield event


def _trace(roots: list[Any]) -> MemoryTrace:
    live = _Live()
    peak = 0
    for _, address, size in _changes(roots):
        live.change(address, size)
        peak = max(peak, live.bytes)
    return MemoryTrace(peak=peak, held=live.bytes)


class _Live:
    """What is allocated at a moment of a recording.

    A free whose allocation was not recorded belongs to memory from before the call. It must be told by its address: the
    profiler keeps a table of sizes between recordings and would report a stale size for an address that was used again. What
    another thread frees (one of a process group, which was the last to hold a buffer) is not recorded at all; it is gone when
    something else is allocated in its place.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._sizes: dict[int, int] = {}
        self._addresses: list[int] = []  # in rising order

    def change(self, address: int, size: int) -> None:
        """An allocation, or a free where ``size`` is negative."""
        if size < 0:
            self._gone(address)
            return
        after = bisect_left(self._addresses, address)
        if after and self._addresses[after - 1] + self._sizes[self._addresses[after - 1]] > address:
            self._gone(self._addresses[after - 1])
        while (after := bisect_left(self._addresses, address)) < len(self._addresses):
            if self._addresses[after] >= address + size:
                break
            self._gone(self._addresses[after])
        self._addresses.insert(after, address)
        self._sizes[address] = size
        self.bytes += size

    def _gone(self, address: int) -> None:
        if address in self._sizes:
            self.bytes -= self._sizes.pop(address)
            del self._addresses[bisect_left(self._addresses, address)]


def _changes(roots: list[Any]) -> list[tuple[int, int, int]]:
    """(time in ns, address, bytes) of each allocation (positive) and free (negative) on the CPU, in order of time."""
    found: list[tuple[int, int, int]] = []
    for event in _all(roots):
        if event.tag == _EventType.Allocation and event.extra_fields.device == torch.device("cpu"):
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    found.sort(key=lambda change: change[0])
    return found
