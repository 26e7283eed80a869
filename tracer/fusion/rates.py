"""How fast fused loops run: bytes per second of memory, and arithmetic per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_BYTES = 1 << 24
_ELEMENTS = 1 << 14
_NARROW_READ, _NARROW_WRITTEN = 45.0, 100.0
"""Additions that an element of a mask costs on a CPU: torch 2.13's vector code converts masks and other bytes one by one. Tried
on loops that differ in nothing else: 43 for a mask read, 50 for an int8; 112 for a mask written."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Attributes:
    bandwidth: bytes per second that a loop reads and writes.
    arithmetic: additions per second within a loop, memory left out.
    launch: seconds that each kernel takes at least.
    narrow_read: seconds for an element of one byte that a loop reads from memory, beside those for its byte.
    narrow_written: the same for one that it writes.
    """

    bandwidth: float
    arithmetic: float
    launch: float
    narrow_read: float = 0.0
    narrow_written: float = 0.0


_measured: dict[tuple[torch.device, int], Rates] = {}


def measured_rates(device: torch.device) -> Rates:
    """The rates of ``device``, measured once for each number of threads.

    Raises:
        ValueError: a device other than a CPU or a CUDA GPU.
    """
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"rates can be measured on cpu and cuda, not on {device.type!r}")
    key = device, torch.get_num_threads()
    if key not in _measured:
        _measured[key] = _on_cpu() if device.type == "cpu" else _on_gpu(device)
    return _measured[key]


def _on_cpu() -> Rates:
    source, target = torch.ones(_BYTES // 4), torch.empty(_BYTES // 4)
    copy = min(_seconds(lambda: target.copy_(source)) for _ in range(20))
    block = torch.full((_ELEMENTS,), 0.5)
    out = torch.empty_like(block)
    transcendental = min(_seconds(lambda: torch.exp(block, out=out)) for _ in range(50))
    arithmetic = 10.0 * _ELEMENTS / transcendental
    return Rates(
        bandwidth=2 * _BYTES / copy,
        arithmetic=arithmetic,
        launch=2e-7,
        narrow_read=_NARROW_READ / arithmetic,
        narrow_written=_NARROW_WRITTEN / arithmetic,
    )


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _on_gpu(device: torch.device) -> Rates:
    source = torch.empty(16 * _BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    target.copy_(source)
    start.record()
    for _ in range(8):
        target.copy_(source)
    end.record()
    torch.cuda.synchronize(device)
    bandwidth = 2 * 8 * source.nbytes / (start.elapsed_time(end) / 1e3)
    # A GPU computes about 30 operations while it moves a number of four bytes; a transcendental function counts ten.
    return Rates(bandwidth=bandwidth, arithmetic=bandwidth * 10.0, launch=3e-6)
