"""Seconds and workspace bytes of operator calls, measured on the device that they run on.

Each distinct call runs by itself on sample arguments: once recorded (its memory, and a warm-up), then timed in batches whose
median counts. What differs from a training step: the arguments may be warmer in the caches than the step would leave them.
"""

from __future__ import annotations

import gc
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.costs.cpu_allocations import record_memory
from remat_planner.tracer.costs.devices import allocated_on_gpu
from remat_planner.tracer.costs.errors import DeviceNotAtHandError
from remat_planner.tracer.costs.op_call import OpCall, writes
from remat_planner.tracer.costs.sample_inputs import SampleArguments
from remat_planner.tracer.joint import is_collective

ONE_RUN = 0.1  # seconds; a call that takes longer is timed once: what it does only the first time is a small part of it
BATCH = 0.5e-3  # seconds that one timed batch should last, so that the clock's own cost does not count
TOTAL = 20e-3  # seconds that the batches of one call should last together
BATCHES = (2, 15)  # least and most of them
MOST_CALLS = 200  # in a batch
MOST_WRITES = 16  # in a batch of a call that writes into its arguments: more, and values run into denormals or infinity
SHORTEST = 1e-7  # seconds; no call is faster, though a coarse clock may say so
HOLES = 4  # of the size of each result, see _make_room
LAUNCH_CYCLES = 40_000  # GPU clock cycles, about 20 microseconds: longer than Python takes to launch one kernel


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What a tensor looks like."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Measured:
    """What one call takes.

    Attributes:
        seconds: median over batches.
        workspace: bytes that the call allocates and frees while it runs, at their highest beyond its results.
        allocates: bytes that the allocator takes for each storage that its results made, in the order of the results.
        results: the results as they really are, flattened, None where a result is no tensor.
    """

    seconds: float
    workspace: int
    allocates: tuple[int, ...]
    results: tuple[TensorForm | None, ...]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a measurement holds for: the device by name, and the settings that change how fast its kernels run.

    Attributes:
        device: name of the GPU, or of the processor.
        torch: version of PyTorch.
        threads: of the CPU; 0 for a GPU.
        settings: PyTorch's own, by name.
    """

    device: str
    torch: str
    threads: int
    settings: tuple[tuple[str, str], ...]


_measured: dict[tuple[Conditions, str], Measured] = {}


def conditions(device: torch.device) -> Conditions:
    """The conditions as they are now.

    Raises:
        DeviceNotAtHandError: nothing can be measured on ``device`` here.
    """
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise DeviceNotAtHandError(
            f"the model is on {device}, where nothing can be measured here: give the name of a device (costs='h100') or a "
            "profile that was measured on one, or put the model on the CPU",
            device=str(device),
        )
    cuda = device.type == "cuda"
    settings = {
        "float32 products": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }
    if cuda:
        settings["cudnn.benchmark"] = str(torch.backends.cudnn.benchmark)
        settings["cudnn.allow_tf32"] = str(torch.backends.cudnn.allow_tf32)
    return Conditions(
        device=torch.cuda.get_device_name(device) if cuda else _processor(),
        torch=str(torch.__version__),
        threads=0 if cuda else torch.get_num_threads(),
        settings=tuple(settings.items()),
    )


@cache
def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measure(call: OpCall, samples: SampleArguments) -> Measured:
    """Measure ``call`` under the thread count and settings as they are; remembered within the process.

    To be called inside ``undisturbed()``, which gives the ``samples``. A collective is not run: the ranks would do so for
    different times and wait for one another. It has no seconds, and what its fake results take; every schedule runs it once.

    Raises:
        DeviceNotAtHandError: nothing can be measured on the call's device.
        Exception: whatever the operator raises on arguments that it does not like.
    """
    if is_collective(call.target):
        return Measured(seconds=0.0, workspace=0, allocates=call.allocates, results=_forms(call.outputs))
    known = (conditions(call.device), call.key)
    if known not in _measured:
        on_device = _measure_on_cuda if call.device.type == "cuda" else _measure_on_cpu
        _measured[known] = on_device(call, samples)
    return _measured[known]


@contextmanager
def undisturbed(devices: Iterable[torch.device]) -> Iterator[SampleArguments]:
    """No autograd, no autocast, no garbage collection inside; the random generators are as before afterwards.

    Yields a maker of sample arguments, whose memory goes when the context does.
    """
    cuda = [device for device in devices if device.type == "cuda" and torch.cuda.is_available()]
    collecting = gc.isenabled()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        if cuda:
            stack.enter_context(torch.autocast("cuda", enabled=False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        gc.disable()
        try:
            yield SampleArguments()
        finally:
            if collecting:
                gc.enable()


def _measure_on_cpu(call: OpCall, samples: SampleArguments) -> Measured:
    args, kwargs = samples.make(call)
    target = call.target
    watch = _Stopwatch()
    result, memory = record_memory(lambda: target(*args, **kwargs))
    once = watch.seconds()
    made = _storages_made(result, (args, kwargs))
    if memory.held != sum(made):  # a library kept something at its first run: that is no cost of the call
        del result
        result, memory = record_memory(lambda: target(*args, **kwargs))
        made = _storages_made(result, (args, kwargs))
    results = _forms(result)
    del result
    workspace = memory.peak - sum(made)
    if once < ONE_RUN:
        _make_room([*made, workspace])
        once = _median(lambda n: _seconds_on_cpu(target, args, kwargs, n), _most_calls(call))
    return Measured(seconds=once, workspace=workspace, allocates=made, results=results)


def _make_room(sizes: list[int]) -> None:
    """Leave holes of these bytes in the heap.

    The C library gives aligned memory only from a hole somewhat larger than asked for, so a lone result would come from new
    pages every time, and touching new pages costs more than many kernels. A training step in its second round has the holes.
    """
    _ = [torch.empty(size, dtype=torch.uint8) for size in sizes for _ in range(HOLES)]


def _seconds_on_cpu(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], n: int) -> float:
    watch = _Stopwatch()
    for _ in range(n):
        target(*args, **kwargs)
    return watch.seconds()


class _Stopwatch:
    """Seconds that the work took, without those in which other processes had the processor.

    The calling thread takes part in every parallel region, so what it computes (or its share of all, where others compute for
    it) is the time on the clock of a machine with nothing else to do.
    """

    def __init__(self) -> None:
        self._thread, self._process = time.thread_time(), time.process_time()

    def seconds(self) -> float:
        process = (time.process_time() - self._process) / torch.get_num_threads()
        return max(time.thread_time() - self._thread, process)


def _measure_on_cuda(call: OpCall, samples: SampleArguments) -> Measured:
    device = call.device
    args, kwargs = samples.make(call)
    target = call.target
    with torch.cuda.device(device):
        target(*args, **kwargs)  # handles, library workspaces and compiled kernels come into being here and stay
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = target(*args, **kwargs)
        torch.cuda.synchronize(device)
        held = torch.cuda.memory_allocated(device) - before
        workspace = torch.cuda.max_memory_allocated(device) - before - held
        made = tuple(map(allocated_on_gpu, _storages_made(result, (args, kwargs))))
        results = _forms(result)
        del result
        seconds = _median(lambda n: _seconds_on_cuda(target, args, kwargs, n), _most_calls(call))
    return Measured(seconds=seconds, workspace=workspace, allocates=made, results=results)


def _seconds_on_cuda(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], n: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    # The GPU waits while the batch is queued, so that what is timed is the kernels and not how fast Python launches them.
    torch.cuda._sleep(LAUNCH_CYCLES * n)  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(n):
        target(*args, **kwargs)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _median(seconds_of: Callable[[int], float], most: int) -> float:
    """Median seconds of one call, from batches; ``seconds_of(n)`` runs a batch of ``n``.

    Where only some batches touch new pages of memory, they are left out: a warm training step does not.
    """
    warm: list[float] = []
    cold: list[float] = []

    def run(size: int) -> float:
        before = _page_faults()
        seconds = seconds_of(size) / size
        (cold if _page_faults() > before else warm).append(seconds)
        return seconds

    first = max(run(1), SHORTEST)
    size = min(most, max(1, round(BATCH / first)))
    if size > 1:  # too short for the clock: an estimate of the batch's size only
        warm.clear()
        cold.clear()
    least, most_batches = BATCHES
    for _ in range(min(most_batches, max(least, round(TOTAL / (first * size))))):
        run(size)
    return statistics.median(warm or cold)


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _most_calls(call: OpCall) -> int:
    return MOST_WRITES if writes(call) else MOST_CALLS


def _storages_made(result: Any, arguments: Any) -> tuple[int, ...]:
    """Bytes of each storage among the results that is no argument's."""
    given = {leaf.untyped_storage()._cdata for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)}
    made = {
        storage._cdata: storage.nbytes()
        for leaf in pytree.tree_leaves(result)
        if isinstance(leaf, torch.Tensor) and (storage := leaf.untyped_storage())._cdata not in given
    }
    return tuple(made.values())


def _forms(result: Any) -> tuple[TensorForm | None, ...]:
    return tuple(
        TensorForm(tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else None
        for leaf in pytree.tree_leaves(result)
    )
