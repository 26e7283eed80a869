"""The true peak of a Python callable, kernel workspaces included.

On a GPU the allocator reports it, on the CPU the profiler's allocation events do. ``StorageMeter`` counts tensor storages only;
the difference between the two is workspace.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from remat_planner.tracer.costs import mark, record_intervals, record_memory


def measure_peak(fn: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Run ``fn`` once: its peak in bytes above what was allocated when it began, with its result still alive at the end.

    On a GPU, memory that libraries allocate once and keep (cuBLAS's workspace, for each thread and stream) counts in the first
    call only. To leave it out, call ``fn`` once before, as ``verify`` does.

    If ``fn`` frees memory from before the call, a GPU's allocator subtracts it; on the CPU it is not subtracted.

    Raises:
        ValueError: a device other than a CPU or a CUDA GPU.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return record_memory(fn)[1].peak
    before = _start_on_gpu(device)
    result = fn()
    torch.cuda.synchronize(device)
    del result
    return torch.cuda.max_memory_allocated(device) - before


def measure_intervals(
    fn: Callable[[Callable[[str], None]], object], device: torch.device | str = "cpu"
) -> tuple[list[tuple[str, int]], int]:
    """Run ``fn(mark)``, in which ``mark(label)`` begins an interval: the peak of each, and the bytes allocated at the end.

    Both are bytes above what was allocated when ``fn`` began, as in ``measure_peak``. The interval up to the first mark is "".

    Raises:
        ValueError: a device other than a CPU or a CUDA GPU.
    """
    device = torch.device(device)
    if device.type == "cpu":
        _, intervals, at_end = record_intervals(lambda: fn(mark))
        return intervals, at_end
    before = _start_on_gpu(device)
    peaks = [("", 0)]

    def close() -> None:
        peaks[-1] = (peaks[-1][0], torch.cuda.max_memory_allocated(device) - before)
        torch.cuda.reset_peak_memory_stats(device)

    def mark_allocator(label: str) -> None:
        close()
        peaks.append((label, 0))

    result = fn(mark_allocator)
    close()
    at_end = torch.cuda.memory_allocated(device) - before
    del result
    return peaks, at_end


def _start_on_gpu(device: torch.device) -> int:
    """Reset the allocator's peak; the bytes that are allocated now."""
    if device.type != "cuda":
        raise ValueError(f"peaks can be measured on cpu and cuda, not on {device.type!r}")
    gc.collect()  # garbage that went during the call would lower its peak
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
