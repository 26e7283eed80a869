"""True peaks: what running a Python callable takes at its highest, measured and not believed.

``measure_peak`` asks the allocator (on a GPU) or the profiler's allocation events (on the CPU, where they see kernel workspaces
too). ``StorageMeter`` counts tensor storages only; the difference between the two is workspace.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.tracer.costs import mark, record_intervals, record_memory


def measure_peak(fn: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Run ``fn`` once: its peak in bytes above what was allocated when it began, its result still held at the end.

    On a GPU what libraries take once and keep (cuBLAS's workspace, for each thread and stream) counts in the first call only:
    call ``fn`` before, as ``verify`` does, to leave it out.

    On the CPU memory from before the call that ``fn`` frees is not subtracted; on a GPU it is, as the allocator counts it.

    Raises:
        ValueError: a device that can be measured on neither way.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return record_memory(fn)[1].peak
    if device.type == "cuda":
        gc.collect()  # garbage that went during the call would be taken off its peak
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = fn()
        torch.cuda.synchronize(device)
        del result
        return torch.cuda.max_memory_allocated(device) - before
    raise ValueError(f"peaks can be measured on cpu and cuda, not on {device.type!r}")


def measure_intervals(
    fn: Callable[[Callable[[str], None]], object], device: torch.device | str = "cpu"
) -> tuple[list[tuple[str, int]], int]:
    """Run ``fn(mark)``, in which ``mark(label)`` begins an interval: the highest bytes in each, and those held at the end.

    Both are above what was allocated when it began, as ``measure_peak`` counts. The interval up to the first mark is "".

    Raises:
        ValueError: a device that can be measured on neither way.
    """
    device = torch.device(device)
    if device.type == "cpu":
        _, intervals, held = record_intervals(lambda: fn(mark))
        return intervals, held
    if device.type != "cuda":
        raise ValueError(f"peaks can be measured on cpu and cuda, not on {device.type!r}")
    gc.collect()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    found = [("", 0)]

    def close() -> None:
        found[-1] = (found[-1][0], torch.cuda.max_memory_allocated(device) - before)
        torch.cuda.reset_peak_memory_stats(device)

    def mark_allocator(label: str) -> None:
        close()
        found.append((label, 0))

    torch.cuda.reset_peak_memory_stats(device)
    result = fn(mark_allocator)
    close()
    held = torch.cuda.memory_allocated(device) - before
    del result
    return found, held


class StorageMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Live bytes of the tensor storages that were made under it.

    Attributes:
        live: bytes of those still alive.
        peak: highest ``live`` after any operator.
        operator: the operator after which the peak was reached.

    A storage is counted from the operator that returns it to its last reference. Storages in ``known`` (parameters, inputs)
    count nothing, nor do those on another type of device than ``device``, where that is given. It dispatches every operator
    through Python: for tests and diagnosis, never for training.
    """

    def __init__(self, known: Iterable[torch.Tensor] = (), device: str | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.operator = ""
        self._device = device
        self._known = [tensor.untyped_storage() for tensor in known]  # held, so that no address is used again
        self._ignored = {storage._cdata for storage in self._known}
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and self._device in (None, leaf.device.type):
                self._count(leaf.untyped_storage())
        if self.live > self.peak:
            self.peak = self.live
            self.operator = str(func)
        return result

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        self._known.clear()

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        size = storage.nbytes()
        if key in self._ignored:
            return
        if key not in self._bytes:
            weakref.finalize(storage, self._free, key)
        self.live += size - self._bytes.get(key, 0)  # a known storage may have been resized
        self._bytes[key] = size

    def _free(self, key: int) -> None:
        self.live -= self._bytes.pop(key)
