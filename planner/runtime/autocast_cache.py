"""Casts of parameters that the cache of ``torch.autocast`` shares.

All that read a parameter under one autocast read one cast of it, so that eager adds up their gradients before it casts the sum
back. A planned call has casts of its own, whose gradients are added up after: other bits, as soon as two readers send theirs.
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
    """The parameters that ``joint`` casts and would share the casts of; none where autocast was off, or without its cache."""
    if not any(words.isidentifier() for words in joint.autocast.values()):
        return ()
    return tuple(
        slot
        for slot, node in zip(joint.parameters, joint.parameter_nodes, strict=True)
        if any(user.target is torch.ops.aten._to_copy.default for user in node.users)
    )


@dataclass(eq=False)
class CacheLife:
    """The cache from the entry into the outermost autocast to the exit from it.

    Attributes:
        cast: the autograd node of a cast that it holds.
        backwards: the newest backward in which a call of a module has sent gradients, by the module.
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
                f"two calls of the planned {type(module).__name__} under one torch.autocast send their gradients in the same "
                "backward. Its cache gives both one cast of each parameter, so that eager adds their gradients in the lower "
                "precision, which two planned calls cannot. The gradients of this backward are not complete: set them to zero. "
                "Then enter autocast once for each call, use torch.autocast(..., cache_enabled=False), or plan one module that "
                "makes both calls"
            )
        self.backwards[id(module)] = backward


_lives: dict[str, CacheLife] = {}  # the newest one, by type of device


def cache_life(device: str) -> CacheLife:
    """The life that the cache of the autocast for ``device`` is in now."""
    with torch.enable_grad():
        product = torch.mm(_probe(device), _probe(device))
    assert product.grad_fn is not None
    cast = product.grad_fn.next_functions[0][0]
    assert cast is not None
    if device not in _lives or _lives[device].cast is not cast:
        _lives[device] = CacheLife(cast)
    return _lives[device]


@cache
def _probe(device: str) -> nn.Parameter:
    """A parameter without elements: autocast casts it, and keeps the cast, but no kernel runs."""
    return nn.Parameter(torch.empty(0, 0, device=device))
