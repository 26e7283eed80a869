"""Operators whose results hold one number, whatever the values of their arguments are.

``torch.ones_like(x)`` and ``x.new_zeros(3)`` take the form of ``x`` alone. So they are known where ``x`` is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from remat_planner.tracer.operators.declared import argument_of

aten = torch.ops.aten

_NUMBERS: dict[Any, int] = {
    aten.zeros_like.default: 0,
    aten.ones_like.default: 1,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
    # Memory that is written to before it is read.
    aten.empty_like.default: 0,
    aten.new_empty.default: 0,
    aten.new_empty_strided.default: 0,
}
_GIVEN = (aten.full_like.default, aten.new_full.default)


def filling_number(func: Any, args: Any, kwargs: Any) -> Any:
    """The number that fills the result of a call; None where values of its arguments matter."""
    return argument_of(func, args, kwargs, "fill_value") if func in _GIVEN else _NUMBERS.get(func)


def filled(size: Sequence[int], stride: Sequence[int], number: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A new tensor of ``number``."""
    return torch.empty_strided(size, stride, dtype=dtype, device=device).fill_(number)
