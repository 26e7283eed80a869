"""Values of checks that never fire, such as ``if not torch.isfinite(h).all(): ...``, on tensors whose values are unknown.

A training step that works has finite numbers, and its assertions hold. So a read of such a check is answered as in that step,
and each planned step compares: where the value is another one, it is done again in eager (``tracer.functions.checks``).

What is followed are tensors that hold one number everywhere: ``isnan`` holds False, ``x == x`` True, and their negations,
combinations and reductions hold what one element of each shows. In assertions and in the argument checks of
``torch.distributions``, ``all`` holds True of whatever it is asked; a branch that only raises is not taken; observers of
quantization find their minimum below their maximum.
"""

from __future__ import annotations

import linecache
import math
import os
import sys
from typing import Any

import torch
from torch.ao.quantization.utils import check_min_max_valid

from remat_planner.tracer.leaves import tensors_in, with_leaves
from remat_planner.tracer.record.raising_branches import condition_before_raise
from remat_planner.tracer.torch_private import is_fake, without_modes

aten = torch.ops.aten

_TORCH = os.path.dirname(torch.__file__) + os.sep
_DISTRIBUTIONS = os.path.join(_TORCH, "distributions") + os.sep
_CALLING = (
    *(os.path.join(_TORCH, folder) + os.sep for folder in ("fx", "utils", "_dynamo")),
    *(os.path.join(_TORCH, file) for file in ("_compile.py", "_tensor.py", "_ops.py", "overrides.py")),
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
)
"""Files of the frames between code that calls an operator and this one."""
_ALL = ("aten::all", "aten::_is_all_true")
_ANY = ("aten::any", "aten::_is_any_true")
_VIEWS = ("view", "_unsafe_view", "reshape", "expand", "squeeze", "unsqueeze", "slice", "select", "permute", "transpose", "t")
_COPIES = ("clone", "contiguous", "_to_copy", "detach", "alias", "lift_fresh", "lift_fresh_copy")
_SAME_NUMBER = (*_ALL, *_ANY, *(f"aten::{name}" for name in (*_VIEWS, *_COPIES, "amax", "amin", "mean")))
"""Operators whose results hold the number that their first argument holds everywhere."""
_SUMS = ("aten::sum", "aten::count_nonzero")


class ExpectedChecks:
    """Follows, in one recording, the tensors that hold one expected number everywhere."""

    def __init__(self) -> None:
        self._numbers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the fake, and the number; by the fake's id

    def follow(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        """Note what ``result`` of an operator holds."""
        if not isinstance(result, torch.Tensor) or not is_fake(result) or func._schema.is_mutable:
            return
        found = _of_finite_numbers(func, args)
        tensors = tensors_in((args, kwargs))
        if found is None and not any(id(t) in self._numbers for t in tensors):
            if not _is_asserted(func):
                return
            found = func._schema.name in _ALL
        with without_modes(), torch.no_grad():
            number = self._combined(func, args, kwargs, tensors, result) if found is None else torch.tensor(found)
        if number is not None:
            self._numbers[id(result)] = result, number

    def expected(self, tensor: Any) -> bool | int | float | None:
        """The number that a read of ``tensor`` gives in a step that works; None where that is unknown."""
        known = self._numbers.get(id(tensor))
        if known is not None:
            return known[1].item()
        if not isinstance(tensor, torch.Tensor) or tensor.dtype is not torch.bool:
            return None
        frame = _calling_frame()
        if frame is not None and frame.f_code is check_min_max_valid.__code__:
            return False
        line = _asserting_line()
        if line:
            return not line.startswith("assert not ")
        return None if frame is None else condition_before_raise(frame.f_code.co_filename, frame.f_lineno)

    def _combined(
        self, func: torch._ops.OpOverload, args: Any, kwargs: Any, tensors: list[torch.Tensor], result: torch.Tensor
    ) -> torch.Tensor | None:
        """The number in ``result``, of those in ``tensors``, the arguments; None where it is unknown."""
        numbers = [self._numbers[id(t)][1] if id(t) in self._numbers else _of_constant(t) for t in tensors]
        if any(number is None for number in numbers):
            return None
        name, first = func._schema.name, numbers[0]
        if name in _SAME_NUMBER:
            return None if first is None else first.to(result.dtype)
        if name in _SUMS:
            return None if first is None else (first * (tensors[0].numel() // max(1, result.numel()))).to(result.dtype)
        if torch.Tag.pointwise not in func.tags:
            return None
        given = iter(numbers)
        one_args, one_kwargs = with_leaves((args, kwargs), lambda leaf: next(given) if isinstance(leaf, torch.Tensor) else leaf)
        number = func(*one_args, **one_kwargs)
        return number if isinstance(number, torch.Tensor) and number.numel() == 1 else None


def _of_constant(tensor: torch.Tensor) -> torch.Tensor | None:
    """The number that a real tensor of one element holds."""
    if is_fake(tensor) or tensor.numel() != 1:
        return None
    return tensor.detach().reshape(())


def _of_finite_numbers(func: torch._ops.OpOverload, args: Any) -> bool | None:
    """What a comparison holds everywhere where its arguments are finite; None where that is not all that it depends on."""
    if func in (aten.isnan.default, aten.isinf.default, aten.isposinf.default, aten.isneginf.default):
        return False
    if func in (aten.eq.Tensor, aten.ne.Tensor) and args[0] is args[1]:
        return func is aten.eq.Tensor
    if func in (aten.eq.Scalar, aten.ne.Scalar) and isinstance(args[1], float) and not math.isfinite(args[1]):
        return func is aten.ne.Scalar
    return None


def _is_asserted(func: torch._ops.OpOverload) -> bool:
    """Whether ``func`` asks about all elements of a tensor for an argument check of ``torch.distributions`` or an assertion.

    An assertion is recognized where it stands in one line: that all are so, or that not any is.
    """
    if func._schema.name not in (*_ALL, *_ANY):
        return False
    asks_any = func._schema.name in _ANY
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_DISTRIBUTIONS):
            return not asks_any
        frame = frame.f_back
    line = _asserting_line()
    return bool(line) and line.startswith("assert not ") == asks_any


def _calling_frame() -> Any:
    """The frame that calls the running operator; None where there is none."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_CALLING):
        frame = frame.f_back
    return frame


def _asserting_line() -> str:
    """The line that calls the running operator, where it is an assertion without further parts; else ""."""
    frame = _calling_frame()
    line = "" if frame is None else linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    alone = not any(word in line.partition(",")[0] for word in (" and ", " or "))
    return line if line.startswith("assert ") and alone else ""
