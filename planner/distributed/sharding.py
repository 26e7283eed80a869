"""Models that are wrapped for several ranks, by DDP or ``fully_shard``, and the part of a tensor that this rank has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.lazy_types import is_instance

Parallel = nn.parallel.DistributedDataParallel


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is a DTensor, of which each rank has a part."""
    return is_instance(tensor, "torch.distributed.tensor", "DTensor")


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of ``tensor`` on this rank: all of it, unless it is a DTensor."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()  # type: ignore[attr-defined]


def shard_count(model: nn.Module) -> int:
    """Over how many ranks the parameters of ``model`` are divided; 1 where they are whole."""
    return max((_shards(p) for p in model.parameters() if is_sharded(p)), default=1)


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on ``module`` itself."""
    return is_instance(module, "torch.distributed.fsdp", "FSDPModule")


def unsharded_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module had before ``fully_shard`` gave it a subclass."""
    # The bases of FSDP<Net> are FSDPModule and Net. PyTorch finds Net in this way too.
    return type(module).__mro__[2] if is_fully_sharded(module) else type(module)


def parallel_wrapper(model: nn.Module) -> Parallel | None:
    """The DDP wrapper that is ``model`` or lies inside of it; None without one."""
    return next((module for module in model.modules() if isinstance(module, Parallel)), None)


def _shards(parameter: Any) -> int:
    sizes = zip(parameter.device_mesh.shape, parameter.placements, strict=True)
    return math.prod(size for size, placement in sizes if placement.is_shard())
