"""Seconds, workspace bytes and FLOPs of every operator of a captured step: measured, of a named device, or from a profile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import fx

from remat_planner.tracer.costs.devices import BLOCK, Device, allocated_on_gpu, device_named
from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.costs.measure import conditions
from remat_planner.tracer.costs.measure_step import measured_calls
from remat_planner.tracer.costs.op_call import OpCall, op_call
from remat_planner.tracer.costs.profile_file import (
    Profile,
    profile_of,
    profiled_calls,
    read_profile,
    warn_of_differences,
    write_profile,
)
from remat_planner.tracer.costs.roofline import roofline_seconds, roofline_workspace
from remat_planner.tracer.joint import tensors_of

MEASURE = "measure"
PROFILE_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class OpCost:
    """What one run of an operator costs.

    Attributes:
        seconds: time on the device; 0 for a view.
        workspace: bytes beyond its arguments and results, held only while it runs.
        flops: floating point operations, of products, convolutions and attention only.
        allocates: bytes of each storage that its results make, in the order of the results; fake tensors get a few wrong.
    """

    seconds: float
    workspace: int
    flops: int
    allocates: tuple[int, ...]


def op_costs(
    nodes: Iterable[fx.Node],
    *,
    costs: str | os.PathLike[str] = MEASURE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[fx.Node, OpCost]:
    """The cost of each ``call_function`` node, by the fake tensors in ``meta["val"]``; other nodes are left out.

    Args:
        nodes: nodes of a captured graph, producers before their readers.
        costs: "measure" on the device that the tensors are on, a device of ``tracer.devices`` by name, or the path of a profile
            (it ends in ".json").
        progress: called with (done, total) while measuring.

    Raises:
        UnknownDeviceError: no such device; its message lists the known ones.
        DeviceNotAtHandError: measuring was asked for on a device that is not here.
        MeasurementError: some operators cannot be run alone.
        ProfileError: the profile cannot be read, or lacks operators and all that could stand for them.
    """
    calls = [node for node in nodes if node.op == "call_function"]
    if costs == MEASURE:
        return {
            node: _FREE if found is None else OpCost(found.seconds, found.workspace, flops(call), found.allocates)
            for node, (call, found) in measured_calls(calls, progress).items()
        }
    if str(costs).endswith(PROFILE_SUFFIX):
        return _from_profile(calls, costs)
    device = device_named(str(costs))
    return {node: _on_paper(op_call(node), device) for node in calls}


def allocation_block(nodes: Iterable[fx.Node], costs: str | os.PathLike[str] = MEASURE) -> int:
    """Bytes that the allocator of the device that ``costs`` hold on hands memory out in: 512 on a GPU, 1 on a CPU.

    It is the size that ``torch.cuda.max_memory_allocated`` counts. The 2 MiB and 20 MiB that larger requests are cut from are
    reserved and not allocated.

    Raises:
        UnknownDeviceError, ProfileError: as ``op_costs``.
    """
    if costs == MEASURE:
        on_gpu = any(t.device.type == "cuda" for node in nodes for t in tensors_of(node))
    elif str(costs).endswith(PROFILE_SUFFIX):
        on_gpu = read_profile(costs).threads == 0
    else:
        device_named(str(costs))  # all in the table are GPUs
        on_gpu = True
    return BLOCK if on_gpu else 1


def is_for_gpu(costs: str | os.PathLike[str]) -> bool:
    """Whether ``costs`` are those of a GPU wherever the model is: a device's by name, or a profile that was measured on one.

    Raises:
        UnknownDeviceError, ProfileError: as ``op_costs``.
    """
    return costs != MEASURE and allocation_block((), costs) == BLOCK


def save_profile(
    nodes: Iterable[fx.Node], path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> Profile:
    """Measure each ``call_function`` node and write what was found to ``path``, to plan elsewhere with ``costs=path``.

    Raises:
        OSError: the file cannot be written.
        DeviceNotAtHandError, MeasurementError: as ``op_costs``.
    """
    measured = measured_calls([node for node in nodes if node.op == "call_function"], progress)
    # By the calls as their fakes have them: they are looked up where nothing corrects them.
    computed = {op_call(node).key: (call, found) for node, (call, found) in measured.items() if found is not None}
    profile = profile_of(computed, conditions(_device_of(call for call, _ in computed.values())))
    write_profile(profile, path)
    return profile


_FREE = OpCost(seconds=0.0, workspace=0, flops=0, allocates=())


def _on_paper(call: OpCall, device: Device) -> OpCost:
    if call.is_view:
        return _FREE
    allocates = tuple(map(allocated_on_gpu, call.allocates))
    return OpCost(roofline_seconds(call, device), roofline_workspace(call), flops(call), allocates)


def _from_profile(nodes: list[fx.Node], path: str | os.PathLike[str]) -> dict[fx.Node, OpCost]:
    profile = read_profile(path)
    calls = {node: op_call(node) for node in nodes}
    device = _device_of(calls.values())
    if device.type == "cpu" or torch.cuda.is_available():
        warn_of_differences(profile, conditions(device), path)
    found = profiled_calls(profile, calls.values(), path)
    costs = {}
    for node, call in calls.items():
        if call.is_view:
            costs[node] = _FREE
        else:
            seconds, workspace, allocates = found[call.key]
            costs[node] = OpCost(seconds, workspace, flops(call), allocates)
    return costs


def _device_of(calls: Iterable[OpCall]) -> torch.device:
    """The first accelerator that any call runs on, else the CPU."""
    return next((call.device for call in calls if call.device.type != "cpu"), torch.device("cpu"))
