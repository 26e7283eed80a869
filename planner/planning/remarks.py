"""What is worth a word about a model when it is planned; each is said once for each model."""

from __future__ import annotations

import logging
import weakref

from torch import nn

from remat_planner.planner.module_paths import merged_names
from remat_planner.tracer.joint import Joint
from remat_planner.tracer.lower import heads

_log = logging.getLogger("remat_planner")
_checkpointed: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_with_whole_heads: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_in_evaluation: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def remark_on(joint: Joint) -> None:
    """Say if the model checkpoints by itself, and if it is in evaluation mode, in which it then trains by the plan."""
    model = joint.model
    if joint.checkpointed and model not in _checkpointed:
        _checkpointed.add(model)
        _log.warning(
            "the model's own torch.utils.checkpoint is on (%s): the plan starts from the step without it and recomputes in its "
            "place, so the peak without recomputation is that of the model with its checkpointing off",
            merged_names([name or "the model itself" for name, _ in model.named_modules() if name in joint.checkpointed]),
        )
    if not joint.training and model not in _in_evaluation:
        _in_evaluation.add(model)
        _log.warning(
            "%s is planned in evaluation mode, as it is now (from_pretrained leaves a model so): the plan is for training "
            "steps in this mode. For steps in training mode, call train() before plan",
            type(model).__name__,
        )


def remark_on_heads(joint: Joint) -> None:
    """Say which losses a plan that may round otherwise than eager cannot compute in chunks, and why."""
    model = joint.model
    found, whole = heads(joint)
    if model in _with_whole_heads or (found and not whole):
        return
    _with_whole_heads.add(model)
    for head in whole:
        _log.warning('variants="any": the loss %s stays whole: %s', head.name, head.why)
    if not found and not whole:
        _log.warning(
            'variants="any": no loss is computed in chunks, since the forward has no cross_entropy behind a linear layer. %s',
            "The loss is computed outside of the model: plan a module that returns it"
            if joint.loss is not None
            else "Only such a loss is computed in chunks",
        )
