"""Casts of a planned module's weights that code outside of it reads under the same ``torch.autocast``.

``model.head(h)`` beside a planned ``model(x)``, in one loss: in eager both read one cast of the weight, whose gradient is added
up in the lower precision. The planned call has a cast of its own, so the bits would differ. A planned call casts below
autocast, so others have read whatever the cache holds at the end of an autocast.

To look a weight up takes some 20 microseconds. So it is done in the first calls, and then whenever a hundred times that time
has passed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.planner.errors import SharedCastError
from remat_planner.planner.torch_private import is_run_by_backward

_FIRST_CALLS = 3
_SHARE_OF_TIME = 0.01
_MOST_NODES = 16  # between a product and the cast that it reads


@dataclass
class LookUps:
    """When to look casts up.

    Attributes:
        calls: number of calls that were looked at.
        next: time (seconds, ``time.perf_counter``) before which none is looked at again.
    """

    calls: int = 0
    next: float = 0.0

    def is_due(self) -> bool:
        """Whether the casts of this call are to be looked up."""
        return self.calls < _FIRST_CALLS or time.perf_counter() > self.next

    def note(self, seconds: float) -> None:
        """Note a look-up that took ``seconds``."""
        self.calls += 1
        self.next = time.perf_counter() + seconds / _SHARE_OF_TIME


@dataclass
class OutsideCasts:
    """The casts that the cache of one autocast holds of weights which a planned call casts itself.

    Attributes:
        weights: these weights, by name.
        device: type of their device.
        look_ups: is told of the look-up.
        found: name of the weight and autograd node of each cast; None before the look-up.
    """

    weights: Mapping[str, torch.Tensor]
    device: str
    look_ups: LookUps
    found: list[tuple[str, Node]] | None = field(default=None)

    def look_up_at_exit(self) -> None:
        """Look the casts up when the outermost autocast ends, before it empties its cache."""
        _before_next_clearing(self._look_up)

    def refuse(self, module: nn.Module) -> None:
        """Called in the backward of the planned call of ``module``.

        Raises:
            SharedCastError: code outside has read such a weight, and this backward sends it a gradient from there too.
        """
        self._look_up()  # if the backward runs before the exit
        shared = [name for name, cast in self.found or () if is_run_by_backward(cast)]
        if shared:
            raise SharedCastError(
                f"{', '.join(shared)} of the planned {type(module).__name__} is also read outside of the planned call, under "
                "the same torch.autocast and in the same loss. The cache of autocast gives both one cast, so eager adds their "
                "gradients in the lower precision; the planned call cannot. The gradients of this backward are incomplete: set "
                "them to zero. Then read the weight under an autocast of its own, use torch.autocast(..., "
                "cache_enabled=False), or plan one module that makes both reads"
            )

    def _look_up(self) -> None:
        if self.found is not None:
            return
        start = time.perf_counter()
        self.found = []
        if torch.is_autocast_enabled(self.device):
            with torch.enable_grad(), _WithoutNewCasts():  # type: ignore[no-untyped-call]
                casts = {name: _cast_of(weight, self.device) for name, weight in self.weights.items()}
            self.found = [(name, cast) for name, cast in casts.items() if cast is not None]
        self.look_ups.note(time.perf_counter() - start)


class _NotCachedError(Exception):
    """A cast would be made now."""


class _WithoutNewCasts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            raise _NotCachedError
        return func(*args, **(kwargs or {}))


def _cast_of(weight: torch.Tensor, device: str) -> Node | None:
    """The autograd node of the cast of ``weight`` that autocast's cache holds; None where it holds none."""
    if weight.dim() == 0:
        return None  # no operator that autocast runs in lower precision takes it
    rows = weight.shape[-2] if weight.dim() > 1 else weight.shape[0]
    nothing = torch.empty(0, rows, dtype=torch.get_autocast_dtype(device), device=weight.device)
    try:
        product = torch.matmul(nothing, weight)
    except _NotCachedError:
        return None
    stack = [product.grad_fn] if product.grad_fn is not None else []
    for _ in range(_MOST_NODES):
        if not stack:
            return None
        node = stack.pop()
        for following, _ in node.next_functions:
            if getattr(following, "variable", None) is weight:
                return node
            if following is not None:
                stack.append(following)
    return None


def _before_next_clearing(callback: Callable[[], None]) -> None:
    """Call ``callback`` when this thread next empties the cache of autocast, before that."""
    original = torch.clear_autocast_cache
    thread = threading.get_ident()

    def clear() -> None:
        if threading.get_ident() == thread:
            if torch.clear_autocast_cache is clear:
                torch.clear_autocast_cache = original
            callback()
        original()

    torch.clear_autocast_cache = clear
