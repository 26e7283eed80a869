"""Tensors in Python state: their forms, which a forward can ask for, and whether they are what a capture took as constant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch

form_of: Any = attrgetter("__class__", "shape", "dtype", "device", "requires_grad", "layout")
"""What Python code can branch on without reading values. It runs in C; what is no tensor has no such attributes."""


def has_form(value: Any) -> bool:
    """Whether ``value`` is a tensor with a form; nested ones have none, so they are told apart by identity."""
    if not isinstance(value, torch.Tensor):
        return False
    try:
        form_of(value)
    except RuntimeError:
        return False
    return True


def same_forms(tensors: Iterable[torch.Tensor]) -> Callable[[], bool]:
    """A question whether ``tensors`` yields as many tensors as now, of the same forms."""
    forms = list(map(form_of, tensors))

    def check() -> bool:
        try:
            return list(map(form_of, tensors)) == forms
        except (AttributeError, RuntimeError):
            return False

    return check


def version_of(tensor: torch.Tensor) -> int:
    """How often the values were changed in place; 0 for tensors of ``torch.inference_mode``, which do not count."""
    return 0 if tensor.is_inference() else tensor._version


class SeenTensor:
    """A tensor as an entry of Python state, equal to what a captured step cannot tell from it.

    Args:
        tensor: the tensor.
        is_constant: whether the captured step has it, or something computed from it, as a constant.
    """

    __slots__ = ("_constant", "_form")

    def __init__(self, tensor: torch.Tensor, *, is_constant: bool) -> None:
        # No other tensor is kept alive.
        self._constant = (tensor, version_of(tensor)) if is_constant else None
        self._form = form_of(tensor) if has_form(tensor) else id(tensor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeenTensor) or (self._constant is None) is not (other._constant is None):
            return False
        if self._constant is None or other._constant is None:
            return bool(self._form == other._form)
        return self._constant[0] is other._constant[0] and self._constant[1] == other._constant[1]

    def is_still(self, value: Any) -> bool:
        """Whether ``value`` is the tensor, where it is a constant, with the values that it had."""
        return self._constant is not None and value is self._constant[0] and version_of(value) == self._constant[1]

    __hash__ = None  # type: ignore[assignment]
