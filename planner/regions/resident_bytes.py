"""Bytes that are resident during the whole step, which the measured intervals do not contain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from remat_planner.planner.distributed import local_part, parallel_wrapper
from remat_planner.planner.measurement import parts_of
from remat_planner.planner.planning import Settings
from remat_planner.planner.training_state import (
    ACCUMULATED,
    BUCKETS,
    MASTER,
    bucket_bytes,
    gradient_bytes,
    master_weight_bytes,
)
from remat_planner.tracer.costs import BLOCK, rounded_up
from remat_planner.tracer.joint import tensor_inputs
from remat_planner.tracer.torch_private import storage_key


def resident_bytes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], settings: Settings) -> dict[str, int]:
    """Bytes on this rank by kind: storages that exist before the step, each counted once, and what ``settings`` adds."""
    tensors_of: dict[str, list[torch.Tensor]] = {
        "parameters": list(model.parameters()),
        "buffers": list(model.buffers()),
        "inputs": tensor_inputs(args, kwargs),
    }
    counted: set[int] = set()
    resident: dict[str, int] = {}
    for kind, tensors in tensors_of.items():
        parts = [part for tensor in tensors for part in _parts(tensor)]
        fresh = {storage_key(t): t for t in parts if storage_key(t) not in counted}
        counted |= fresh.keys()
        resident[kind] = sum(rounded_up(t.untyped_storage().nbytes(), BLOCK if t.is_cuda else 1) for t in fresh.values())
    wrapper = parallel_wrapper(model)
    if wrapper is not None:
        resident[BUCKETS] = bucket_bytes(wrapper.module.parameters())
    training = settings.training
    if masters := sum(master_weight_bytes(p, training) for p in model.parameters()):
        resident[MASTER] = 0 if training.optimizer_offload else masters
    if training.accumulate and not (wrapper is not None and wrapper.gradient_as_bucket_view):
        resident[ACCUMULATED] = sum(gradient_bytes(p, training) for p in model.parameters() if p.requires_grad)
    if settings.optimizer is not None:
        resident["optimizer"] = settings.optimizer_needs.state
    return resident


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors with a storage of their own of which it is made on this rank."""
    own = local_part(tensor)
    return [own] if own.layout is torch.strided and not own.is_nested else parts_of(own)
