"""Bytes and dtypes of one parameter under a training state: its shard, gradient, master weight and place in a bucket.

A parameter that is a DTensor already is counted by this rank's part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from remat_planner.planner.distributed import local_part
from remat_planner.schedules import TrainingState


def local_shape(parameter: torch.Tensor, training: TrainingState) -> tuple[int, ...]:
    """Shape of rank 0's shard, which has ceil(rows / ranks) rows; a scalar is not divided."""
    shape = tuple(local_part(parameter).shape)
    return (-(-shape[0] // training.shard), *shape[1:]) if shape else shape


def local_numel(parameter: torch.Tensor, training: TrainingState) -> int:
    """Elements of rank 0's shard."""
    return math.prod(local_shape(parameter, training))


def gradient_dtype(parameter: torch.Tensor, training: TrainingState) -> torch.dtype:
    """Dtype in which the gradient is retained."""
    return parameter.dtype if training.gradient_dtype is None else getattr(torch, training.gradient_dtype)


def gradient_bytes(parameter: torch.Tensor, training: TrainingState) -> int:
    """Bytes of the gradient that the rank retains."""
    count = local_numel(parameter, training) if training.gradients_in_shards else local_part(parameter).numel()
    return count * gradient_dtype(parameter, training).itemsize


def optimizer_dtype(parameter: torch.Tensor, training: TrainingState) -> torch.dtype:
    """Dtype of the tensor that the optimizer steps on: the master weight, or the parameter itself."""
    return torch.float32 if _has_master_weight(parameter, training) else parameter.dtype


def master_weight_bytes(parameter: torch.Tensor, training: TrainingState) -> int:
    """Bytes of rank 0's float32 copy, wherever it is; 0 if the optimizer steps on the parameter itself."""
    if not _has_master_weight(parameter, training):
        return 0
    return local_numel(parameter, training) * torch.float32.itemsize


def bucket_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of the buckets of ``DistributedDataParallel``, which together hold every gradient."""
    return sum(p.numel() * p.dtype.itemsize for p in parameters if p.requires_grad)


def _has_master_weight(parameter: torch.Tensor, training: TrainingState) -> bool:
    low_precision = parameter.dtype.is_floating_point and parameter.dtype.itemsize < torch.float32.itemsize
    return training.master_weights and parameter.requires_grad and low_precision
