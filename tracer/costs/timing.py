"""Seconds of one call, by the clock of its device."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

BATCH_SECONDS = 0.5e-3
"""Seconds that one batch on a GPU should last, so that reading the clock does not count."""
TOTAL_SECONDS = 20e-3
"""Seconds that all batches of one call on a GPU should last together."""
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


def seconds_on_cuda(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, writes: bool) -> float:
    """Median seconds, over batches, of ``target(*args, **kwargs)`` on the current GPU without what Python takes to launch it.

    ``writes`` says that it writes into its arguments.
    """

    def batch(size: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # The GPU waits while the batch is queued, so that the events time the kernels and not how fast Python launches them.
        torch.cuda._sleep(LAUNCH_CYCLES * size)  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(size):
            target(*args, **kwargs)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / size

    first = max(batch(1), SHORTEST)
    size = min(MOST_WRITES if writes else MOST_CALLS, max(1, round(BATCH_SECONDS / first)))
    count = min(MOST_BATCHES, max(LEAST_BATCHES, round(TOTAL_SECONDS / (first * size))))
    return statistics.median(batch(size) for _ in range(count))


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


def page_faults() -> int:
    """How often this process has touched a new page of memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
