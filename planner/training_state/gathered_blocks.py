"""Bytes that are whole for part of a sharded step: what FSDP2 gathers, and gradients before they are reduced to shards.

The step modelled is that of ``torch.distributed.fsdp.fully_shard`` (FSDP2) on every block and on the model. A block is a
numbered module that lies in no other one ("model.layers.3"). The highest bytes are counted for the whole step:

- the parameters of the running block and of the next one, which FSDP prefetches;
- the parameters outside of blocks (embeddings, the head), which ``fully_shard`` does not free after the forward;
- the whole gradients of the largest block and of the parameters outside of blocks, until they are reduced;
- the flat input of the largest reduce-scatter.

In stage 2 of ZeRO the parameters are whole anyway, and only the last two count. What the communication library takes does not
count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

import torch

from remat_planner.planner.module_paths import outermost_block
from remat_planner.planner.training_state.per_parameter import gradient_dtype
from remat_planner.schedules import TrainingState


def gathered_bytes(parameters: Mapping[str, torch.Tensor], training: TrainingState) -> int:
    """The bytes above, for ``parameters`` by their full name and a training state whose gradients are in shards."""
    whole: dict[str, int] = defaultdict(int)
    gradients: dict[str, int] = defaultdict(int)
    reduced: dict[str, int] = defaultdict(int)
    for name, parameter in parameters.items():
        block = outermost_block(name.rpartition(".")[0])
        whole[block] += parameter.numel() * parameter.dtype.itemsize
        if parameter.requires_grad:
            gradients[block] += parameter.numel() * parameter.dtype.itemsize
            reduced[block] += parameter.numel() * gradient_dtype(parameter, training).itemsize
    outside, outside_gradients = whole.pop("", 0), gradients.pop("", 0)
    unreduced = outside_gradients + max(gradients.values(), default=0) + max(reduced.values(), default=0)
    if not training.parameters_in_shards:
        return unreduced
    running = max((this + following for this, following in pairwise([*whole.values(), 0])), default=0)
    return outside + running + unreduced
