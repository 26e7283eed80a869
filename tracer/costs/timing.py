"""Seconds of one call, by the clock of the device: the median over batches of calls."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

BATCH_SECONDS = 0.5e-3
"""Seconds that one batch should last, so that reading the clock does not count."""
TOTAL_SECONDS = 20e-3
"""Seconds that all batches of one call should last together."""
LEAST_BATCHES = 2
MOST_BATCHES = 15
MOST_CALLS = 200
"""Calls in a batch."""
MOST_WRITES = 16
"""Calls in a batch where each writes into its arguments: after more of them, values become denormal or infinite."""
SHORTEST = 1e-7
"""Seconds; no call is faster, though a coarse clock may say so."""
LAUNCH_CYCLES = 40_000
"""GPU clock cycles, about 20 microseconds: longer than Python takes to launch one kernel."""


def seconds_on_cpu(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, writes: bool) -> float:
    """Median seconds of ``target(*args, **kwargs)`` on the CPU; ``writes`` says that it writes into its arguments."""

    def batch(size: int) -> float:
        stopwatch = Stopwatch()
        for _ in range(size):
            target(*args, **kwargs)
        return stopwatch.seconds()

    return _median(batch, MOST_WRITES if writes else MOST_CALLS)


def seconds_on_cuda(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, writes: bool) -> float:
    """Median seconds of ``target(*args, **kwargs)`` on the current GPU, without the time that Python takes to launch it."""

    def batch(size: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # The GPU waits while the batch is queued, so that the events time the kernels and not how fast Python launches them.
        torch.cuda._sleep(LAUNCH_CYCLES * size)  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(size):
            target(*args, **kwargs)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return _median(batch, MOST_WRITES if writes else MOST_CALLS)


class Stopwatch:
    """Seconds of work since it was made, without those in which other processes had the processor.

    The calling thread takes part in every parallel region. Its own seconds, or the seconds of all threads divided by their
    number, are therefore what a clock would show on a machine with nothing else to do.
    """

    def __init__(self) -> None:
        self._thread, self._process = time.thread_time(), time.process_time()

    def seconds(self) -> float:
        process = (time.process_time() - self._process) / torch.get_num_threads()
        return max(time.thread_time() - self._thread, process)


def _median(seconds_of_batch: Callable[[int], float], most_calls: int) -> float:
    """Median seconds of one call; ``seconds_of_batch(n)`` runs ``n`` calls.

    Batches that touch new pages of memory are left out where others do not: a training step past its first round does not.
    """
    warm: list[float] = []
    cold: list[float] = []

    def run(size: int) -> float:
        before = _page_faults()
        seconds = seconds_of_batch(size) / size
        (cold if _page_faults() > before else warm).append(seconds)
        return seconds

    first = max(run(1), SHORTEST)
    size = min(most_calls, max(1, round(BATCH_SECONDS / first)))
    if size > 1:  # one call was too short for the clock: it only gives the size of a batch
        warm.clear()
        cold.clear()
    for _ in range(min(MOST_BATCHES, max(LEAST_BATCHES, round(TOTAL_SECONDS / (first * size))))):
        run(size)
    return statistics.median(warm or cold)


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
