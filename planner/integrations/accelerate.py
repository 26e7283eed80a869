"""Accelerate: ``model, optimizer = prepare(accelerator, model, optimizer, budget="8GB")``."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from remat_planner.planner.errors import TransformError
from remat_planner.planner.first_step import budgeted

_ALIKE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def prepare(accelerator: Accelerator, model: nn.Module, *others: Any, budget: int | str, **options: Any) -> Any:
    """``accelerator.prepare(model, *others)`` with a model that trains within ``budget`` bytes.

    It is planned at its first training step, with the batch, the precision and the loss of that step.

    Args:
        accelerator: the accelerator.
        model: the module to train, as ``accelerator.prepare`` would get it.
        others: optimizers, data loaders and schedulers, as for ``accelerator.prepare``.
        budget: bytes at the peak of one training step, as in ``remat_planner.plan``.
        options: as for ``remat_planner.budgeted``.

    Raises:
        TransformError: the accelerator shards or rewrites the model (FSDP, DeepSpeed, Megatron-LM).
    """
    if accelerator.distributed_type not in _ALIKE:
        raise TransformError(
            f"Accelerate trains by {accelerator.distributed_type} here, which changes the module that is planned: prepare the "
            "model first, and plan it by regions (docs/distributed.md)"
        )
    return accelerator.prepare(budgeted(model, budget, **options), *others)
