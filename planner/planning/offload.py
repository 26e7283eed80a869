"""Copies of activations beside the device: what ``plan`` is asked for, and the pools with rates that this means."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from remat_planner.planner.errors import BudgetError, OffloadError
from remat_planner.planner.planning.budget import parse_budget, pool_budget
from remat_planner.planner.planning.device_budget import device_type
from remat_planner.planner.planning.host_memory import available_on_host
from remat_planner.schedules import Channel, Pool, PoolName
from remat_planner.solvers import Solver
from remat_planner.solvers.registry import resolve
from remat_planner.tracer.costs import Channels, LinkError, host_channels, is_for_gpu, measured_disk_channels

BLOCK = 4096
"""Bytes: copies begin at multiples of it, the size of a page of memory or of a file."""

_DIRECTIONS = ("out", "in")
_RATE = 'write bytes per second, such as "50GB/s", or one rate for each direction, such as "out=170GB/s,in=411GB/s"'
_log = logging.getLogger("remat_planner")


@dataclass(frozen=True)
class Offload:
    """Memory beside the device to which a planned step may copy activations, and from which it copies them back.

    Attributes:
        host: bytes of pinned host memory that copies may take, an int or text such as "64GB"; 0 for no copies to the host.
        disk: bytes of a file in ``folder`` that copies may take; 0 for no copies to a disk.
        folder: where the file is; needed with ``disk``.
        link: rates of the link between the device and its host: "50GB/s", or "out=170GB/s,in=411GB/s". By default they are
            measured where the device is at hand, else taken from the table of devices or from the profile of the costs.
        disk_link: the same for the disk; by default measured by a scratch file of 16 MiB in ``folder``.
    """

    host: int | str = 0
    disk: int | str = 0
    folder: str | Path | None = None
    link: str | None = None
    disk_link: str | None = None


def pools_for(offload: Offload | None, model: nn.Module, costs: str, solver: str | Solver = "auto") -> tuple[Pool, ...]:
    """The pools of a plan by ``solver`` on the device of ``model`` and ``costs``. Warns of a solver that copies nothing.

    Raises:
        BudgetError: a budget is not a number of bytes.
        OffloadError: the pools mean nothing for this plan, have no room, or a rate is no rate.
        CostError: the rates of the link are not known.
        UnknownSolverError, SolverMissingError: no such solver can run here.
    """
    if offload is None:
        return ()
    if not isinstance(offload, Offload):
        raise OffloadError(
            f"offload is of type {type(offload).__name__}: give an object such as remat_planner.Offload(host='64GB') or "
            "remat_planner.Offload(disk='500GB', folder='/scratch')"
        )
    host, disk = pool_budget(offload.host, "host"), pool_budget(offload.disk, "disk")
    _refuse_unused(offload, host, disk)
    pools = []
    if host:
        _check_host(host, model, costs)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        pools.append(_pool("host", host, offload.link, lambda: host_channels(device, costs)))
    if disk:
        folder = _checked_folder(offload.folder, disk)
        pools.append(_pool("disk", disk, offload.disk_link, lambda: measured_disk_channels(folder)))
    method = resolve(solver)
    if pools and not method.copies:
        _log.warning("the solver %s copies nothing: it plans as without offload (`plan solvers` lists the others)", method.name)
    return tuple(pools)


def link_on_paper(costs: str) -> Channels | None:
    """The link between the GPU of ``costs``, which is not "measure", and its host; None where none is known or copies help."""
    if not is_for_gpu(costs):
        return None
    try:
        return host_channels(torch.device("cpu"), costs)
    except LinkError:
        return None


def parse_link(text: str, option: str) -> Channels:
    """Read the rates of a link, which ``option`` gives.

    Raises:
        OffloadError: it is not one rate above zero, or one for each direction.
    """
    parts = [part.partition("=") for part in text.split(",")]
    if len(parts) == 1 and not parts[0][1]:
        channel = Channel(_parse_rate(text, option))
        return Channels(channel, channel)
    named = {name.strip(): rate for name, equals, rate in parts if equals}
    if len(parts) != len(_DIRECTIONS) or set(named) != set(_DIRECTIONS):
        raise OffloadError(f"{option} is {text!r}: {_RATE}")
    return Channels(*(Channel(_parse_rate(named[direction], option)) for direction in _DIRECTIONS))


def _parse_rate(text: str, option: str) -> float:
    amount = text.strip()
    try:
        rate = parse_budget(amount.removesuffix("/s")).bytes if amount.endswith("/s") else None
    except BudgetError:  # its message tells of budgets
        rate = None
    if not rate:
        raise OffloadError(f"{option} gives {text!r}, which is no rate above zero: {_RATE}")
    return float(rate)


def _pool(name: PoolName, budget: int, link: str | None, measured: Callable[[], Channels]) -> Pool:
    channels = measured() if link is None else parse_link(link, "link" if name == "host" else "disk_link")
    return Pool(name, budget, *channels, block=BLOCK)


def _refuse_unused(offload: Offload, host: int, disk: int) -> None:
    for given, budget, pool, option in (
        (offload.link, host, "host", "link"),
        (offload.disk_link, disk, "disk", "disk_link"),
        (offload.folder, disk, "disk", "folder"),
    ):
        if given is not None and not budget:
            raise OffloadError(
                f"{option} is for copies to the {pool}, which has no budget: give one ({pool}='64GB'), or leave {option} out",
                pool=pool,
            )


def _check_host(budget: int, model: nn.Module, costs: str) -> None:
    """Refuse a plan for a CPU, and on a GPU at hand a budget above what is free."""
    if device_type(model, costs) != "cuda" and not is_for_gpu(costs):
        raise OffloadError(
            "a plan for a CPU has no other memory on its host to copy to: name a GPU (costs='h100'), or copy to a "
            "disk (Offload(disk='500GB', folder=...))",
            pool="host",
            needed=budget,
        )
    available = available_on_host() if _is_on_gpu(model) else None
    if available is not None and budget > available:
        raise OffloadError(
            f"the host budget is {budget:,} bytes, and {available:,} bytes of memory are available here: plan with less",
            pool="host",
            needed=budget,
            available=available,
        )


def _checked_folder(folder: str | Path | None, budget: int) -> Path:
    """The folder of a disk pool, which can be written and has room for ``budget`` bytes."""
    if folder is None:
        raise OffloadError("copies to a disk need a folder: Offload(disk='500GB', folder='/scratch')", pool="disk")
    path = Path(folder)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise OffloadError(
            f"copies cannot be written to {path} ({error.strerror or error}): name a folder that is there and writable",
            pool="disk",
            needed=budget,
        ) from error
    if budget > free:
        raise OffloadError(
            f"the disk budget is {budget:,} bytes, and {free:,} bytes are free in {path}: plan with less, or elsewhere",
            pool="disk",
            needed=budget,
            available=free,
        )
    return path


def _is_on_gpu(model: nn.Module) -> bool:
    return torch.cuda.is_available() and any(p.device.type == "cuda" for p in model.parameters())
