"""Finds the parameters of regions that code outside the regions reads in the model's forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


class ReadsOutside(TorchFunctionMode):
    """Watches the torch functions that take one of ``parameters`` and return a tensor that requires a gradient.

    Attributes:
        ids: the ids of the parameters that they took, outside of ``inside``.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.ids: set[int] = set()
        self._watched = {id(parameter) for parameter in parameters}
        self._inside = False

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
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
