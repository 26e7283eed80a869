"""Rates of links: between a GPU and its host, measured or from the table of devices, and to a disk, measured in a folder."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from remat_planner.schedules import Channel
from remat_planner.tracer.costs.devices import Link

_HOST_BYTES = 64 * 2**20  # of a measured copy: large enough that its latency is below 1 %
_SMALL_BYTES = 4096  # of a copy that takes next to nothing but latency
_REPEATS = 5  # measured copies, of which the median counts
_PRODUCTS = 20  # matrix products beside which copies run
_PRODUCT_SIZE = 4096  # rows and columns of the factors
_DISK_BYTES = 16 * 2**20  # of the scratch file


class Channels(NamedTuple):
    """Both directions of a link."""

    outgoing: Channel
    incoming: Channel


def channels_of(link: Link) -> Channels:
    """The channels of a link in the table of devices."""
    return Channels(Channel(link.outgoing, source="table"), Channel(link.incoming, source="table"))


def measured_host_channels(device: torch.device) -> Channels:
    """Measure the link between a GPU and its host, by copies of pinned memory alone and beside matrix products."""
    with torch.cuda.device(device), torch.no_grad():
        pinned = torch.empty(_HOST_BYTES, dtype=torch.uint8, pin_memory=True)
        memory = torch.zeros(_HOST_BYTES, dtype=torch.uint8, device=device)
        return Channels(_measured_on_gpu(pinned, memory), _measured_on_gpu(memory, pinned))


def measured_disk_channels(folder: Path) -> Channels:
    """Measure the disk of ``folder`` by a scratch file of 16 MiB, past the cache that the system keeps of files.

    Raises:
        OSError: the file cannot be written there.
    """
    content = memoryview(os.urandom(_DISK_BYTES))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        descriptor = file.fileno()
        os.posix_fallocate(descriptor, 0, _DISK_BYTES)
        began = time.perf_counter()
        written = 0
        while written < _DISK_BYTES:
            written += os.pwrite(descriptor, content[written:], written)
        os.fdatasync(descriptor)
        stored = time.perf_counter()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        target = bytearray(_DISK_BYTES)
        reading = time.perf_counter()
        read = 0
        while read < _DISK_BYTES:
            read += os.preadv(descriptor, [memoryview(target)[read:]], read)
        loaded = time.perf_counter()
    return Channels(
        Channel(_DISK_BYTES / max(stored - began, 1e-9), source="measured"),
        Channel(_DISK_BYTES / max(loaded - reading, 1e-9), source="measured"),
    )


def _measured_on_gpu(target: torch.Tensor, source: torch.Tensor) -> Channel:
    """The channel of copies from ``source`` to ``target``, of which one is pinned and one on the current GPU."""
    latency = _seconds_on_gpu(lambda: target[:_SMALL_BYTES].copy_(source[:_SMALL_BYTES], non_blocking=True))
    seconds = _seconds_on_gpu(lambda: target.copy_(source, non_blocking=True))
    rate = target.nbytes / max(seconds - latency, 1e-9)
    return Channel(rate, latency, _slowdown(target, source, seconds), source="measured")


def _slowdown(target: torch.Tensor, source: torch.Tensor, seconds: float) -> float:
    """How much longer matrix products take beside copies that never pause; 1 or more."""
    device = target.device if target.is_cuda else source.device
    factor = torch.zeros(_PRODUCT_SIZE, _PRODUCT_SIZE, dtype=torch.float16, device=device)
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def products() -> None:
        for _ in range(_PRODUCTS):
            torch.mm(factor, factor)

    alone = _seconds_on_gpu(products)
    copies = int(2 * alone / seconds) + 2  # more than the products can outlast

    def beside() -> None:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(copies):
                target.copy_(source, non_blocking=True)
        products()

    slowed = _seconds_on_gpu(beside)
    return max(1.0, round(slowed / alone, 2))


def _seconds_on_gpu(work: Callable[[], object]) -> float:
    """Median seconds of ``work`` on the current stream, the first run left out."""
    work()
    times = []
    for _ in range(_REPEATS):
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)
