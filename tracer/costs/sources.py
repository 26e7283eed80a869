"""The cost of every operator of a captured step: measured, estimated for a named device, or read from a profile."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import fx

from remat_planner.tracer.costs.conditions import conditions, processor
from remat_planner.tracer.costs.devices import BLOCK, Device, allocated_on_gpu, device_named
from remat_planner.tracer.costs.errors import LinkError, ProfileWarning
from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.costs.links import Channels, channels_of, measured_host_channels
from remat_planner.tracer.costs.measure_step import measured_calls
from remat_planner.tracer.costs.profile_file import (
    Profile,
    ProfiledLink,
    profile_of,
    read_profile,
    warn_of_differences,
    write_profile,
)
from remat_planner.tracer.costs.profile_lookup import profiled_calls
from remat_planner.tracer.costs.roofline import roofline_seconds, roofline_workspace
from remat_planner.tracer.joint import tensors_of
from remat_planner.tracer.operators import OpCall, op_call

MEASURE = "measure"
PROFILE_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class OpCost:
    """The cost of one execution of an operator.

    Attributes:
        seconds: time on the device; 0 for a view.
        workspace: bytes allocated beyond its arguments and results, only while it runs.
        flops: floating point operations; 0 for elementwise operators and reductions.
        allocates: bytes of each storage that its results allocate, in their order; fake tensors get a few wrong.
        scatter: seconds by which the median of the measured runs lies above ``seconds``, which is their lower quartile.
    """

    seconds: float
    workspace: int
    flops: int
    allocates: tuple[int, ...]
    scatter: float = 0.0


def op_costs(
    nodes: Iterable[fx.Node],
    *,
    costs: str | os.PathLike[str] = MEASURE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[fx.Node, OpCost]:
    """The cost of each ``call_function`` node, by the fake tensors in ``meta["val"]``; other nodes are left out.

    Args:
        nodes: nodes of a captured graph, producers before their readers.
        costs: "measure", on the device of the tensors; the name of a device in ``DEVICES``; or the path of a profile, which
            ends in ".json".
        progress: called with (done, total) while measuring.

    Raises:
        UnknownDeviceError: no device has this name; the message lists the known ones.
        DeviceNotAtHandError: the tensors are on a device that this machine does not have.
        MeasurementError: no operator can run alone.
        ProfileError: the profile cannot be read, or lacks operators and has none of their kind.
    """
    calls = [node for node in nodes if node.op == "call_function"]
    if costs == MEASURE:
        return {
            node: _FREE if cost is None else OpCost(cost.seconds, cost.workspace, flops(call), cost.allocates, cost.scatter)
            for node, (call, cost) in measured_calls(calls, progress).items()
        }
    if str(costs).endswith(PROFILE_SUFFIX):
        return _from_profile(calls, costs)
    device = device_named(str(costs))
    return {node: _on_paper(op_call(node), device) for node in calls}


def allocation_block(nodes: Iterable[fx.Node], costs: str | os.PathLike[str] = MEASURE) -> int:
    """Bytes of the allocator's smallest block on the device that ``costs`` are for: 512 on a GPU, 1 on a CPU.

    ``torch.cuda.max_memory_allocated`` counts these blocks. The allocator cuts them from segments of 2 MiB and 20 MiB, which
    count as reserved and not as allocated.

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
    """Whether ``costs`` are a GPU's wherever the model is: a named device's, or those of a profile measured on a GPU.

    Raises:
        UnknownDeviceError, ProfileError: as ``op_costs``.
    """
    return costs != MEASURE and allocation_block((), costs) == BLOCK


def save_profile(
    nodes: Iterable[fx.Node], path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> Profile:
    """Measure each ``call_function`` node and write the costs to ``path``, to plan elsewhere with ``costs=path``.

    Raises:
        OSError: the file cannot be written.
        DeviceNotAtHandError, MeasurementError: as ``op_costs``.
    """
    measured = measured_calls([node for node in nodes if node.op == "call_function"], progress)
    # The keys are those of the uncorrected fakes, since nothing corrects the fakes where the profile is read.
    computed = {op_call(node).key: (call, cost) for node, (call, cost) in measured.items() if cost is not None}
    device = _device_of(call for call, _ in computed.values())
    link = None
    if device.type == "cuda":
        outgoing, incoming = measured_host_channels(device)
        link = ProfiledLink(host=processor(), outgoing=outgoing, incoming=incoming)
    profile = profile_of(computed, conditions(device), link)
    write_profile(profile, path)
    return profile


def host_channels(device: torch.device, costs: str | os.PathLike[str] = MEASURE) -> Channels:
    """The link between the host and the GPU of ``costs``: measured on ``device``, from the table of devices, or from a profile.

    Warns where a profile measured the link on another host than this one.

    Raises:
        LinkError: the device shares its memory with the host, or the profile has no rates.
        UnknownDeviceError, ProfileError: as ``op_costs``.
    """
    if costs == MEASURE:
        return measured_host_channels(device)
    if not str(costs).endswith(PROFILE_SUFFIX):
        named = device_named(str(costs))
        if named.link is None:
            raise LinkError(
                f"{named.name} and its host share their memory: a copy there frees nothing, so plan without offload"
            )
        return channels_of(named.link)
    profile = read_profile(costs)
    if profile.link is None:
        raise LinkError(
            f"{costs}: the profile of {profile.device} has no rates of the link to the host: give them (--link 50GB/s), or "
            "measure the profile again with this planner on the GPU"
        )
    if profile.link.host != processor():
        warnings.warn(
            f"{costs}: the link to the host was measured on {profile.link.host}, and this machine is {processor()}. "
            "The times of copies hold there",
            ProfileWarning,
            stacklevel=2,
        )
    return Channels(profile.link.outgoing, profile.link.incoming)


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
    profiled = profiled_calls(profile, calls.values(), path)
    costs = {}
    for node, call in calls.items():
        if call.is_view:
            costs[node] = _FREE
        else:
            seconds, workspace, allocates = profiled[call.key]
            costs[node] = OpCost(seconds, workspace, flops(call), allocates)
    return costs


def _device_of(calls: Iterable[OpCall]) -> torch.device:
    """The first accelerator that any call runs on, else the CPU."""
    return next((call.device for call in calls if call.device.type != "cpu"), torch.device("cpu"))
