"""Every allocation of a call on the CPU, kernel workspaces included, as PyTorch's profiler records them.

A kernel allocates more than its result: oneDNN scratchpads, im2col buffers, the scalars that ``x + 1`` wraps. All of it comes
from PyTorch's CPU allocator, and the profiler records each allocation with its address. Memory that a library takes elsewhere
(MKL's packing buffers, OpenMP stacks) is not counted.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class MemoryTrace:
    """Bytes on the CPU above the bytes allocated when the call began.

    Attributes:
        peak: the highest during the call, never below 0.
        held: bytes that the call allocated and did not free (its result, if that is kept).
    """

    peak: int
    held: int


def record_memory(fn: Callable[[], Result]) -> tuple[Result, MemoryTrace]:
    """Run ``fn`` and record its allocations on the CPU. The result stays alive until the recording ends.

    Where ``fn`` frees memory from before the call, nothing is subtracted: the profiler does not know its size.

    Raises:
        RuntimeError: another profiler is running.
    """
    result, roots = _recorded(fn)
    live = _LiveBytes()
    peak = 0
    for _, address, size in _changes(roots):
        live.change(address, size)
        peak = max(peak, live.bytes)
    return result, MemoryTrace(peak=peak, held=live.bytes)


_LOG_LEVEL, _SET_BY_PROFILER = "KINETO_LOG_LEVEL", "TORCHINDUCTOR_CACHE_DIR"
_MARK = "planner interval: "


def mark(label: str) -> None:
    """Begin the interval ``label`` of a recording by ``record_intervals`` at this moment."""
    with torch.profiler.record_function(_MARK + label):
        pass


def record_intervals(fn: Callable[[], Result]) -> tuple[Result, list[tuple[str, int]], int]:
    """Run ``fn``, which calls ``mark``.

    Returns:
        Its result; the label and the highest bytes of each interval; the bytes still allocated at the end. Bytes are above
        those allocated when the call began. The first interval, up to the first mark, is "".

    Raises:
        RuntimeError: another profiler is running.
    """
    result, roots = _recorded(fn)
    events: list[tuple[int, str | tuple[int, int]]] = [(time, change) for time, *change in _changes(roots)]  # type: ignore[misc]
    events += [(event.start_time_ns, event.name.removeprefix(_MARK)) for event in _all(roots) if event.name.startswith(_MARK)]
    events.sort(key=lambda event: event[0])
    live = _LiveBytes()
    intervals = [("", 0)]
    for _, label_or_change in events:
        if isinstance(label_or_change, str):
            intervals.append((label_or_change, live.bytes))
            continue
        live.change(*label_or_change)
        intervals[-1] = (intervals[-1][0], max(intervals[-1][1], live.bytes))
    return result, intervals, live.bytes


def _recorded(fn: Callable[[], Result]) -> tuple[Result, list[Any]]:
    """The result of ``fn`` and the profiler's trees of events."""
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _silent():
        profiler.start()
    try:
        result = fn()
    finally:
        with _silent():
            profiler.stop()
    recorded: Any = profiler.profiler
    return result, recorded.kineto_results.experimental_event_tree()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Kineto's progress lines off stderr. Afterwards the environment is as it was, all of which a forward may read."""
    added = [name for name in (_LOG_LEVEL, _SET_BY_PROFILER) if name not in os.environ]
    os.environ.setdefault(_LOG_LEVEL, "99")  # a user's own setting stays
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _all(roots: list[Any]) -> Iterator[Any]:
    stack = list(roots)
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        yield event


class _LiveBytes:
    """The blocks that are allocated at a moment of a recording.

    A free whose allocation was not recorded belongs to memory from before the call. Only the address tells it apart: the
    profiler keeps a table of sizes between recordings and would report a stale size for an address that was used again. A free
    by another thread (one of a process group that was the last owner of a buffer) is not recorded at all; such a block counts
    as freed once something else is allocated in its place.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._sizes: dict[int, int] = {}
        self._addresses: list[int] = []  # ascending

    def change(self, address: int, size: int) -> None:
        """Record an allocation, or a free where ``size`` is negative."""
        if size < 0:
            self._free(address)
            return
        after = bisect_left(self._addresses, address)
        if after and self._addresses[after - 1] + self._sizes[self._addresses[after - 1]] > address:
            self._free(self._addresses[after - 1])
        while (after := bisect_left(self._addresses, address)) < len(self._addresses):
            if self._addresses[after] >= address + size:
                break
            self._free(self._addresses[after])
        self._addresses.insert(after, address)
        self._sizes[address] = size
        self.bytes += size

    def _free(self, address: int) -> None:
        if address in self._sizes:
            self.bytes -= self._sizes.pop(address)
            del self._addresses[bisect_left(self._addresses, address)]


def _changes(roots: list[Any]) -> list[tuple[int, int, int]]:
    """(time in ns, address, bytes) of each allocation (positive) and free (negative) on the CPU, in order of time."""
    changes = [
        (event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size)
        for event in _all(roots)
        if event.tag == _EventType.Allocation and event.extra_fields.device == torch.device("cpu")
    ]
    changes.sort(key=lambda change: change[0])
    return changes
