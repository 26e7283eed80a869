"""What one forward of a model shows: parameters of regions that code outside them reads, and whether sizes depend on values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_VALUES_TO_SIZES = frozenset(
    ("argwhere", "bincount", "item", "masked_select", "nonzero", "repeat_interleave", "tolist", "unique", "unique_consecutive")
)
"""Functions of torch whose result is numbers of Python's, or has a size that depends on values."""


class ReadsOutside(TorchFunctionMode):
    """Watches the torch functions that take one of ``parameters`` and return a tensor that requires a gradient.

    Attributes:
        ids: the ids of the parameters that they took, outside of ``inside``.
        sizes_from_values: whether any function ran, also inside, that makes sizes of values.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.ids: set[int] = set()
        self.sizes_from_values = False
        self._watched = {id(parameter) for parameter in parameters}
        self._inside = False

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.sizes_from_values = self.sizes_from_values or _makes_sizes_of_values(func, args)
        if not self._inside and torch.is_grad_enabled():
            read = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs))} & self._watched
            if read and any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(result)):
                self.ids |= read
        return result

    @contextmanager
    def inside(self) -> Iterator[None]:
        """For the forward of a region, whose reads do not count."""
        before, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = before


def _makes_sizes_of_values(func: Any, args: tuple[Any, ...]) -> bool:
    name = getattr(func, "__name__", "")
    if name == "where":
        return len(args) == 1
    if name == "__getitem__":
        return any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in pytree.tree_leaves(args[1:]))
    return name in _VALUES_TO_SIZES
