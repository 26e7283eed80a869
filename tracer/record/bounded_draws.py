"""The ranges of the random draws of a recording, and the comparisons that these decide.

A random path whose rate is 0 draws all the same: ``if torch.rand([]) < self.rate``. No draw takes it.
"""

from __future__ import annotations

from typing import Any

import torch

from remat_planner.tracer.draw_range import DrawRange
from remat_planner.tracer.operators import argument_of
from remat_planner.tracer.torch_private import is_symbolic, storage_key

aten = torch.ops.aten

_UNIT = DrawRange(0.0, 1.0, below=True)
_OF_UNIT = (aten.rand.default, aten.rand.generator, aten.rand_like.default)
_COPIES = (aten.clone.default, aten.detach.default)
_COMPARISONS = {getattr(aten, name).Scalar: name for name in ("lt", "le", "gt", "ge")}


_LARGEST_EXACT = 256  # in bfloat16


class BoundedDraws:
    """Remembers the storages that hold draws alone."""

    def __init__(self) -> None:
        self._ranges: dict[int, DrawRange] = {}

    def follow(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor], written: set[int]) -> None:
        """Note what a call draws, and forget what it writes over."""
        for storage in written:
            self._ranges.pop(storage, None)
        found = _drawn(func, args, kwargs)
        if func in _COPIES:
            found = self.range_of(args[0])
        if found is not None and len(results) == 1 and _fills_its_storage(results[0]):
            self._ranges[storage_key(results[0])] = found

    def range_of(self, tensor: torch.Tensor) -> DrawRange | None:
        """Where the elements of ``tensor`` lie; None where they are no draws, or may be any number."""
        return self._ranges.get(storage_key(tensor)) if tensor.layout is torch.strided else None

    def decided(self, func: Any, args: Any, kwargs: Any) -> bool | None:
        """The answer of a comparison of draws, if it is the same for all that may be drawn."""
        operation = _COMPARISONS.get(func)
        if operation is None or (found := self.range_of(args[0])) is None:
            return None
        other = argument_of(func, args, kwargs, "other")
        return found.compared(operation, other) if _is_exact(other) else None


def _drawn(func: Any, args: Any, kwargs: Any) -> DrawRange | None:
    if func in _OF_UNIT:
        return _UNIT
    if func is not aten.uniform_.default:
        return None
    least, most = (argument_of(func, args, kwargs, name) for name in ("from", "to"))
    if not _is_exact(least) or not _is_exact(most):
        return None
    return _UNIT if (least, most) == (0, 1) else DrawRange(least, most, below=False)  # rounding may reach another end


def _is_exact(number: Any) -> bool:
    """Whether every type of floating-point numbers has it: operators convert numbers to the type of their tensors."""
    return type(number) in (int, float) and number == number // 1 and abs(number) <= _LARGEST_EXACT


def _fills_its_storage(tensor: torch.Tensor) -> bool:
    return not is_symbolic(tensor.numel()) and tensor.nbytes == tensor.untyped_storage().nbytes()
