"""Seconds and workspace bytes of operator calls, measured on the device that they run on.

Each distinct call runs alone on sample arguments: once with its memory recorded, which also warms it up, then for its seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.costs.conditions import Conditions, conditions
from remat_planner.tracer.costs.cpu_allocations import record_memory
from remat_planner.tracer.costs.devices import allocated_on_gpu
from remat_planner.tracer.costs.rounds import CallToTime, time_in_rounds
from remat_planner.tracer.costs.sample_inputs import SampleArguments
from remat_planner.tracer.costs.timing import Stopwatch, seconds_on_cuda
from remat_planner.tracer.garbage import garbage_left
from remat_planner.tracer.operators import OpCall, SampleInputs, facts_of, is_collective


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What a tensor looks like."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured cost of one call.

    Attributes:
        seconds: on a CPU the lower quartile of runs, on a GPU the median of batches.
        workspace: highest bytes that the call allocates beyond its results and frees before it returns.
        allocates: bytes that the allocator takes for each storage of its results, in their order.
        results: the form of the real results, flattened; None where a result is no tensor.
        scatter: seconds by which the median of the runs lies above ``seconds``; on a GPU 0.
    """

    seconds: float
    workspace: int
    allocates: tuple[int, ...]
    results: tuple[TensorForm | None, ...]
    scatter: float = 0.0


_Key = tuple[Conditions, str, SampleInputs | None]
_remembered: dict[_Key, Measured] = {}


def run_once(call: OpCall, samples: SampleArguments) -> Measured:
    """The memory and the results of ``call`` under the present conditions; on a CPU, its seconds are those of one run.

    To be called inside ``undisturbed()``, which gives the ``samples``. What is remembered within the process is returned as it
    is. A collective is not run: the ranks would run it for different times and wait for one another. It counts 0 seconds and
    the bytes of its fake results: every schedule runs it once.

    Raises:
        DeviceNotAtHandError: nothing can be measured on the call's device.
        Exception: whatever the operator raises on arguments that it does not accept.
    """
    if is_collective(call.target):
        return Measured(seconds=0.0, workspace=0, allocates=call.allocates, results=forms_of(call.outputs))
    key = _key(call)
    if key in _remembered:
        return _remembered[key]
    if call.device.type != "cuda":
        return _run_on_cpu(call, samples)
    _remembered[key] = _measure_on_cuda(call, samples)
    return _remembered[key]


def with_seconds(
    runs: Sequence[tuple[OpCall, Measured]],
    samples: SampleArguments,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Measured]:
    """The results of ``run_once``, with seconds to plan with; those are remembered within the process.

    Args:
        runs: calls in the order of a step, and the result of ``run_once`` for each.
        samples: makes their arguments.
        progress: called with the number of rounds done, out of ``ROUNDS``.
    """
    new: dict[_Key, tuple[OpCall, Measured]] = {}
    for call, measured in runs:
        if not is_collective(call.target) and (key := _key(call)) not in _remembered:
            new.setdefault(key, (call, measured))
    to_time = [CallToTime(call, (*once.allocates, once.workspace), once.seconds) for call, once in new.values()]
    timed = time_in_rounds(to_time, samples, progress)
    for (key, (_, once)), found in zip(new.items(), timed, strict=True):
        _remembered[key] = replace(once, seconds=found.seconds, scatter=found.scatter)
    return [once if is_collective(call.target) else _remembered[_key(call)] for call, once in runs]


def _key(call: OpCall) -> _Key:
    return conditions(call.device), call.key, facts_of(call.target).sample_inputs


@contextmanager
def undisturbed(devices: Iterable[torch.device]) -> Iterator[SampleArguments]:
    """Turn off autograd, autocast, warnings and garbage collection, and restore the random generators afterwards.

    Yields a maker of sample arguments; its memory is released when the context ends.
    """
    cuda = [device for device in devices if device.type == "cuda" and torch.cuda.is_available()]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        if cuda:
            stack.enter_context(torch.autocast("cuda", enabled=False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(garbage_left())
        yield SampleArguments()


def _run_on_cpu(call: OpCall, samples: SampleArguments) -> Measured:
    args, kwargs = samples.make(call)
    target = call.target
    stopwatch = Stopwatch()
    result, memory = record_memory(lambda: target(*args, **kwargs))
    seconds = stopwatch.seconds()
    allocates = _new_storages(result, (args, kwargs))
    if memory.held != sum(allocates):  # a library kept something from its first run, which is no cost of the call
        del result
        result, memory = record_memory(lambda: target(*args, **kwargs))
        allocates = _new_storages(result, (args, kwargs))
    results = forms_of(result)
    del result
    workspace = max(0, memory.peak - sum(allocates))  # results may come from elsewhere: NumPy has an allocator of its own
    return Measured(seconds=seconds, workspace=workspace, allocates=allocates, results=results)


def _measure_on_cuda(call: OpCall, samples: SampleArguments) -> Measured:
    device = call.device
    args, kwargs = samples.make(call)
    target = call.target
    with torch.cuda.device(device):
        target(*args, **kwargs)  # the first run creates handles, library workspaces and compiled kernels, which stay
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = target(*args, **kwargs)
        torch.cuda.synchronize(device)
        retained = torch.cuda.memory_allocated(device) - before
        workspace = torch.cuda.max_memory_allocated(device) - before - retained
        allocates = tuple(map(allocated_on_gpu, _new_storages(result, (args, kwargs))))
        results = forms_of(result)
        del result
        seconds = seconds_on_cuda(target, args, kwargs, writes=call.writes)
    return Measured(seconds=seconds, workspace=workspace, allocates=allocates, results=results)


def _new_storages(result: Any, arguments: Any) -> tuple[int, ...]:
    """Bytes of each storage among the results that belongs to no argument."""
    old = {leaf.untyped_storage()._cdata for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)}
    new = {
        storage._cdata: storage.nbytes()
        for leaf in pytree.tree_leaves(result)
        if isinstance(leaf, torch.Tensor) and (storage := leaf.untyped_storage())._cdata not in old
    }
    return tuple(new.values())


def forms_of(result: Any) -> tuple[TensorForm | None, ...]:
    """What each of the tensors in ``result`` looks like; None for what is no tensor."""
    return tuple(
        TensorForm(tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else None
        for leaf in pytree.tree_leaves(result)
    )
