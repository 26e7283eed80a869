"""Which parameters of regions something outside of them reads while the model's forward runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


class ReadsOutside(TorchFunctionMode):
    """Sees every function of torch that is called with one of ``parameters`` and returns something with a gradient.

    Attributes:
        found: the ids of those parameters; what is read in ``inside`` does not count.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.found: set[int] = set()
        self._watched = {id(parameter) for parameter in parameters}
        self._inside = False

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._inside and torch.is_grad_enabled():
            read = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs))} & self._watched
            if read and any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(result)):
                self.found |= read
        return result

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A region's own forward."""
        before, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = before
