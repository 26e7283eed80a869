"""The tensors that a recorded step finds in Python state, in no parameter, buffer or input: plain attributes, globals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.torch_private import is_fake


class OutsideTensors:
    """Collects the real tensors that a recorded step reads.

    Attributes:
        found: them, by id.
    """

    def __init__(self) -> None:
        self.found: dict[int, torch.Tensor] = {}

    def note_arguments(self, func: torch._ops.OpOverload, args: Any, kwargs: Any) -> None:
        """The step calls an operator. What ``lift_fresh`` gets is a constant of the code: ``torch.tensor(1.0)``."""
        if func is not torch.ops.aten.lift_fresh.default:
            self.note(pytree.tree_leaves((args, kwargs)))

    def note(self, values: Iterable[Any]) -> None:
        """The step reads ``values``, some of which may be tensors."""
        for leaf in values:
            if isinstance(leaf, torch.Tensor) and not is_fake(leaf):
                self.found.setdefault(id(leaf), leaf)
