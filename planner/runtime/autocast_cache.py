"""Casts of parameters that the cache of ``torch.autocast`` shares between calls.

All readers of a parameter under one autocast read the same cast. So eager adds up their gradients first and casts the sum back.
Two planned calls have a cast each, and their gradients are added after the cast back. The bits differ as soon as two readers
send gradients in one backward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch
from torch import nn
from torch.autograd.graph import Node

from remat_planner.planner.errors import SharedCastError
from remat_planner.planner.torch_private import current_backward
from remat_planner.tracer.joint import Joint, StateSlot


def shared_casts(joint: Joint) -> tuple[StateSlot, ...]:
    """The parameters that ``joint`` casts and whose casts it would share; none without autocast or without its cache."""
    if not any(setting.isidentifier() for setting in joint.autocast.values()):
        return ()
    return tuple(
        slot
        for slot, node in zip(joint.parameters, joint.parameter_nodes, strict=True)
        if any(user.target is torch.ops.aten._to_copy.default for user in node.users)
    )


@dataclass(eq=False)
class AutocastCache:
    """The cache of one autocast, which is emptied at the exit from the outermost one.

    Attributes:
        cast: the autograd node of a cast in it, which tells it from other caches.
        backwards: for each module (by id), number of the last backward in which a call of it has sent gradients.
    """

    cast: Node
    backwards: dict[int, int] = field(default_factory=dict)

    def refuse_another(self, module: nn.Module) -> None:
        """Called in the backward of each call of ``module`` under this autocast.

        Raises:
            SharedCastError: another call has sent gradients in the same backward.
        """
        backward = current_backward()
        if self.backwards.get(id(module)) == backward:
            raise SharedCastError(
                f"two calls of the planned {type(module).__name__} under one torch.autocast send gradients in the same "
                "backward. The cache of autocast gives both calls one cast of each parameter, so eager adds their gradients in "
                "the lower precision; two planned calls cannot. The gradients of this backward are incomplete: set them to "
                "zero. Then enter autocast once per call, use torch.autocast(..., cache_enabled=False), or plan one module "
                "that makes both calls"
            )
        self.backwards[id(module)] = backward


_newest: dict[str, AutocastCache] = {}  # by type of device


def current_cache(device: str) -> AutocastCache:
    """The cache that autocast now uses for ``device``."""
    with torch.enable_grad():
        product = torch.mm(_probe(device), _probe(device))
    assert product.grad_fn is not None
    cast = product.grad_fn.next_functions[0][0]
    assert cast is not None
    if device not in _newest or _newest[device].cast is not cast:
        _newest[device] = AutocastCache(cast)
    return _newest[device]


@cache
def _probe(device: str) -> nn.Parameter:
    """A parameter without elements: autocast casts it and caches the cast, but no kernel runs."""
    return nn.Parameter(torch.empty(0, 0, device=device))
