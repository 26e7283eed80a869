"""Seconds of calls on the CPU as a training step would find them, whatever else the machine does.

All calls run in rounds, once in each. So a burst of work elsewhere, which slows whatever runs meanwhile through the caches and
the memory that processors share, meets one run of many calls instead of all runs of one. The lower quartile of a call's runs
counts.

A call that runs again and again finds its arguments and its results in the caches. Products hardly gain by that, but calls that
move memory, which are those worth recomputing, seem to take half their time. So other memory is written before each run that
counts; a run before that finds the code. ``benchmarks.overhead`` compares the sums with real steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from remat_planner.tracer.costs.sample_inputs import SampleArguments
from remat_planner.tracer.costs.timing import SHORTEST, Stopwatch, page_faults
from remat_planner.tracer.operators import OpCall

ROUNDS = 5
LEAST_RUNS = 2
ENOUGH = 0.06
"""Seconds; a call whose runs took so long together needs no more than ``LEAST_RUNS``."""
LONG = 0.5
"""Seconds; a call of this length is known from its first run."""
OTHER_CALLS = 8
"""Before a run, other memory is written, of so many times the bytes that the call reads and writes: a step does so between the
making of a tensor and its use, as neighbours have similar sizes."""
MOST_OTHER_BYTES = 12 << 20
"""More than the caches of one core hold, less than those that cores share. Chosen on three models (gpt2, resnet and vit of
``benchmarks.overhead``, 1 MiB of second-level cache): with 2 MiB their sums fell short of real steps, with 16 MiB those of gpt2
and vit exceeded them."""
_HOLES = 4
"""Holes left in the heap for each result, see ``_make_room``."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of one call: the lower quartile of its runs, and how far their median lies above that."""

    seconds: float
    scatter: float


@dataclass
class CallToTime:
    """A call, how many bytes it allocates at a time (results and workspace), and seconds of its first run."""

    call: OpCall
    allocates: Sequence[int]
    first: float
    _warm: list[float] = field(default_factory=list)
    _cold: list[float] = field(default_factory=list)

    def is_due(self, number: int) -> bool:
        """Whether it runs in this round; rounds count from 0."""
        spent = sum(self._warm) + sum(self._cold)
        return self.first < LONG and (number < LEAST_RUNS or spent < ENOUGH)

    def run(self, samples: SampleArguments, other: torch.Tensor, clock: float) -> None:
        """Run it once, after writing other memory, one byte to an element; reading the clock takes ``clock`` seconds."""
        args, kwargs = samples.make(self.call)
        target = self.call.target
        target(*args, **kwargs)
        _make_room(self.allocates)
        other[: OTHER_CALLS * (sum(self.allocates) + sum(storage.bytes for storage in self.call.storages))].add_(1)
        faults = page_faults()
        stopwatch = Stopwatch()
        result = target(*args, **kwargs)
        seconds = max(stopwatch.seconds() - clock, SHORTEST)
        # A run that touches new pages counts only where all do: a training step past its first round does not.
        (self._cold if page_faults() > faults else self._warm).append(seconds)
        del result

    def timed(self) -> Timed:
        runs = sorted(self._warm or self._cold or [self.first])
        low = runs[(len(runs) - 1) // 4]
        return Timed(low, runs[len(runs) // 2] - low)


def time_in_rounds(calls: Sequence[CallToTime], samples: SampleArguments, progress: Callable[[int], None]) -> list[Timed]:
    """Seconds of each of ``calls``, which are in the order of a step.

    ``progress`` is called with the number of rounds done.
    """
    other = torch.zeros(MOST_OTHER_BYTES, dtype=torch.uint8)
    clock = min(Stopwatch().seconds() for _ in range(ROUNDS))
    for number in range(ROUNDS):
        for call in calls:
            if call.is_due(number):
                call.run(samples, other, clock)
        progress(number + 1)
    return [call.timed() for call in calls]


def _make_room(sizes: Sequence[int]) -> None:
    """Leave holes of these bytes in the heap.

    The C library gives aligned memory only from a hole somewhat larger than the request. A lone result would come from new
    pages every time, and touching new pages costs more than many kernels. A training step has the holes from its second round
    on.
    """
    _ = [torch.empty(size, dtype=torch.uint8) for size in sizes for _ in range(_HOLES)]
