"""Values for the dense tensors that a sparse one consists of: places of its entries that are valid, in two patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from remat_planner.tracer.torch_sparse import SparseForm

Pattern = Literal["spread", "packed"]
PATTERNS: tuple[Pattern, ...] = ("spread", "packed")
"""Entries spread over the tensor, or packed into one end of it: results whose form differs depend on values."""

_STEPS = 64
"""Different values of an argument that is no index, fractions from 0.25 up to 0.75."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a dense tensor is a part of.

    Attributes:
        form: of the sparse tensor; None where it is none of its parts.
        number: of the part.
        entries: number of entries, or of dense blocks, of the sparse tensor.
        lines: number of rows, columns or lines of blocks that a compressed layout counts.
    """

    form: SparseForm | None = None
    number: int = 0
    entries: int = 0
    lines: int = 0

    @property
    def is_values(self) -> bool:
        """Whether it has the values of a sparse tensor."""
        return self.form is not None and self.number == self.form.number_of_parts - 1

    @property
    def is_index(self) -> bool:
        """Whether it says where the entries of a sparse tensor are."""
        return self.form is not None and not self.is_values

    def fill(self, tensor: torch.Tensor, pattern: Pattern) -> None:
        """Fill it: valid places of entries in this pattern, fractions elsewhere."""
        if self.form is None or self.is_values:
            _fill_values(torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage()))
        elif self.form.layout is torch.sparse_coo:
            self._fill_coordinates(tensor, self.form, pattern)
        else:
            each = max(1, -(-self.entries // max(self.lines, 1)))
            if pattern == "packed" and self.form.layout in (torch.sparse_csr, torch.sparse_csc):
                each = max(1, self.form.size[-1 if self.form.layout is torch.sparse_csr else -2])
            numbers = torch.arange(tensor.numel(), device=tensor.device).view(tensor.shape)
            tensor.copy_((numbers * each).clamp(max=self.entries) if self.number == 0 else numbers % each)

    def _fill_coordinates(self, tensor: torch.Tensor, form: SparseForm, pattern: Pattern) -> None:
        size = form.size[: len(form.size) - form.dense_dims]
        if tensor.stride(0) == 0:  # the entries lie on the diagonal
            tensor, size = tensor[:1], (min(size),)
        places = math.prod(size)
        if not self.entries or not places:
            return
        numbers = torch.arange(self.entries, device=tensor.device)
        if pattern == "spread":
            chosen = numbers * places // self.entries if self.entries <= places else numbers % places
        else:
            chosen = places - 1 - (numbers if form.coalesced else numbers // 2).flip(0) % places
        coordinates = torch.stack(torch.unravel_index(chosen, size))
        if tensor.stride(1) == 0:  # all entries lie in one place
            tensor, coordinates = tensor[:, :1], coordinates[:, :1]
        tensor.copy_(coordinates)


def _fill_values(flat: torch.Tensor) -> None:
    if flat.dtype.is_floating_point or flat.dtype.is_complex:
        flat.copy_(0.25 + torch.arange(flat.numel(), device=flat.device) % _STEPS / (2 * _STEPS))
    else:
        flat.zero_()
