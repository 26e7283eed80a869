"""Ranks that plan one model together: what they must not decide differently, and which part of a tensor each of them has.

A model that is wrapped already (DDP, ``fully_shard``) communicates when its step runs, so every rank has to run it as often
as the others, by the same schedules. What decides that is therefore found on one rank and told to the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from remat_planner.tracer.lazy_types import is_instance

Result = TypeVar("Result")
_RUNS_WITH_OTHERS = 8  # about one run in four misses a free
Parallel = nn.parallel.DistributedDataParallel


def others_wait() -> bool:
    """Whether this process is one of a group, so that the order in which gradients are handed over may matter to others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is a DTensor, of which a rank has a part."""
    return is_instance(tensor, "torch.distributed.tensor", "DTensor")


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank has of ``tensor``: all of it, unless it is a DTensor."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()  # type: ignore[attr-defined]


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on ``module`` itself."""
    return is_instance(module, "torch.distributed.fsdp", "FSDPModule")


def unsharded_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module had before ``fully_shard`` put one of its own in front of it."""
    return type(module).__mro__[2] if is_fully_sharded(module) else type(module)  # FSDP<Net>, FSDPModule, Net: as torch does


def parallel_wrapper(model: nn.Module) -> Parallel | None:
    """The DDP around or inside of ``model``; None where there is none."""
    return next((module for module in model.modules() if isinstance(module, Parallel)), None)


@dataclass(frozen=True)
class Ranks:
    """The ranks that run the same step of the same model; none but this one where the model is not wrapped.

    Attributes:
        groups: process groups, one for each dimension of the mesh that they are arranged in.
    """

    groups: tuple[Any, ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> Ranks:
        """The ranks that ``model`` is wrapped over: the group of its DDP, the mesh of its sharded parameters."""
        wrapper = parallel_wrapper(model)
        if wrapper is not None:
            return cls((wrapper.process_group,))
        meshes = [p.device_mesh for p in model.parameters() if is_sharded(p)]  # type: ignore[attr-defined]
        if not meshes:
            return cls()
        mesh = max(meshes, key=lambda m: m.size())
        return cls(tuple(mesh.get_group(dimension) for dimension in range(mesh.ndim)))

    @property
    def several(self) -> bool:
        """Whether another rank takes part."""
        return any(group.size() > 1 for group in self.groups)

    def agreed(self, make: Callable[[], Result]) -> Result:
        """What ``make`` returns, or raises, on the first rank: run there, and told to the others."""
        if not self.groups:
            return make()
        told: list[Any] = [None, None]
        if all(group.rank() == 0 for group in self.groups):
            try:
                told[0] = make()
            except Exception as error:
                told[1] = error
        for group in self.groups:
            torch.distributed.broadcast_object_list(told, group=group, group_src=0)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def everyones(self, own: Result) -> list[Result]:
        """What each rank has given, in the same order on all of them."""
        found = [own]
        for group in reversed(self.groups):
            gathered: list[Any] = [None] * group.size()
            torch.distributed.all_gather_object(gathered, found, group=group)
            found = [one for part in gathered for one in part]
        return found


def shards_of(model: nn.Module) -> int:
    """Over how many ranks the parameters of ``model`` are divided; 1 where they are not."""
    sharded = [p for p in model.parameters() if is_sharded(p)]
    return max((_parts(p) for p in sharded), default=1)


def _parts(parameter: Any) -> int:
    sizes = zip(parameter.device_mesh.shape, parameter.placements, strict=True)
    return math.prod(size for size, placement in sizes if placement.is_shard())


def measurements(model: nn.Module) -> int:
    """How often a step has to be run to know its peak, the lowest one being true.

    On the CPU the threads of a process group let go of what is sent and received. Of memory that they were the last to hold the
    profiler does not see that it is free, in one run or another.
    """
    cpu = all(p.device.type == "cpu" for p in model.parameters())
    return _RUNS_WITH_OTHERS if cpu and Ranks.of(model).several else 1
