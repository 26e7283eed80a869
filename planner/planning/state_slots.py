"""The places in which a captured step finds parameters and buffers, and the forms of the tensors that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import getitem
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.torch_private import form_check, is_fake


class StateSlots:
    """Places of parameters and buffers, and what determines the kernels that run on the tensors in them.

    To read and compare them is most of what a planned call adds to a step. So all tensors are compared by one call into C, and
    one by one only where that finds a difference, which may be one of the surroundings.

    Args:
        places: a mapping and a key for each tensor.
        examples: tensors of these forms; a fake one stands for a plain tensor or a parameter.
    """

    _READ = (
        torch.Tensor.dtype.__get__,  # type: ignore[attr-defined]
        torch.Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
        torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
        torch.Tensor.device.__get__,
        torch.Tensor.stride,
    )

    def __init__(self, places: Sequence[tuple[Mapping[str, torch.Tensor | None], str]], examples: Sequence[Any]) -> None:
        self._owners = [owner for owner, _ in places]
        self._keys = [key for _, key in places]
        self._kinds = list(map(_kind_of, examples))
        self._forms = [(read, list(map(read, examples))) for read in self._READ]
        self._have_seen_forms = form_check(())

    def tensors(self) -> list[torch.Tensor | None] | None:
        """What is in the places now; None if one of the places is gone."""
        try:
            return list(map(getitem, self._owners, self._keys))
        except KeyError:
            return None

    def is_changed(self, position: int) -> bool:
        """Whether the tensor in one place is gone, or has another form."""
        try:
            tensor: Any = self._owners[position][self._keys[position]]
        except KeyError:
            return True
        forms = ((read, forms[position]) for read, forms in self._forms)
        return type(tensor) is not self._kinds[position] or any(read(tensor) != form for read, form in forms)

    def unchanged(self) -> list[torch.Tensor] | None:
        """The tensors; None if one has another form, or is another kind of object (a DTensor has the shape of the whole)."""
        tensors: Any = self.tensors()
        if tensors is None or self._have_seen_forms(tensors):
            return tensors
        if list(map(type, tensors)) != self._kinds:
            return None
        for read, forms in self._forms:
            if list(map(read, tensors)) != forms:
                return None
        self._have_seen_forms = form_check(tensors)
        return tensors


def _kind_of(example: torch.Tensor) -> type[torch.Tensor]:
    if not is_fake(example):
        return type(example)
    return nn.Parameter if isinstance(example, nn.Parameter) else torch.Tensor
