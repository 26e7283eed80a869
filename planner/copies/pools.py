"""The pools of a planned step, and their memory for one run of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from remat_planner.planner.copies.disk_pool import DiskChannels, DiskPool, DiskStepPool
from remat_planner.planner.copies.host_pool import HostPool, HostStepPool
from remat_planner.planner.errors import OffloadError
from remat_planner.schedules import Schedule, simulate

Pools = Mapping[str, "DiskPool | HostPool"]
StepPools = Mapping[str, "DiskStepPool | HostStepPool"]


def pools_of(schedule: Schedule, device: torch.device, folder: str | Path | None) -> Pools:
    """The pools that ``schedule`` copies to, by name; empty where it copies nothing.

    Args:
        schedule: the plan.
        device: where the step computes.
        folder: for the files of a disk pool.

    Raises:
        OffloadError: a pool cannot serve this device, or has no room.
    """
    peaks = simulate(schedule.graph, schedule.steps).pool_peaks if schedule.graph.pools else {}
    pools: dict[str, DiskPool | HostPool] = {}
    for name, size in peaks.items():
        if name == "disk":
            pools[name] = _disk_pool(device, folder, size)
        else:
            pools[name] = _host_pool(device, size)
    return pools


def _disk_pool(device: torch.device, folder: str | Path | None, size: int) -> DiskPool:
    if device.type not in ("cpu", "cuda"):
        raise OffloadError(
            f"copies to a disk are made from the memory of a CPU or a CUDA device, and the step runs on {device}: plan without "
            "offload",
            pool="disk",
            needed=size,
            available=None,
        )
    if folder is None:
        raise OffloadError(
            f"the schedule copies up to {size:,} bytes to a disk: say in which folder, apply_schedule(..., disk_folder=...)",
            pool="disk",
            needed=size,
            available=None,
        )
    return DiskPool(folder, size, DiskChannels.between(device, folder))


def _host_pool(device: torch.device, size: int) -> HostPool:
    if device.type != "cuda":
        raise OffloadError(
            f"the schedule copies to the host, whose memory the step on {device} uses anyway: plan with offload to a disk",
            pool="host",
            needed=size,
            available=None,
        )
    return HostPool(device, size)
