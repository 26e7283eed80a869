"""The private names of PyTorch around sparse tensors: the dense tensors that one consists of, and one put together of them.

``tests/tracer/test_torch_sparse.py`` tries each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["LAYOUTS", "SparseForm", "fake_sparse", "is_sparse", "parts_of_sparse", "put_together"]

_BY_ROWS = (torch.sparse_csr, torch.sparse_bsr)
LAYOUTS = (torch.sparse_coo, *_BY_ROWS, torch.sparse_csc, torch.sparse_bsc)
"""The layouts of sparse tensors."""


@dataclass(frozen=True, slots=True)
class SparseForm:
    """What a sparse tensor is besides its parts.

    Attributes:
        layout: one of ``LAYOUTS``.
        size: its shape.
        dense_dims: number of dimensions in which it is dense.
        coalesced: of the layout ``sparse_coo``: each place occurs once, and they are in order.
    """

    layout: torch.layout
    size: tuple[int, ...]
    dense_dims: int = 0
    coalesced: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> SparseForm:
        """The form of ``tensor``."""
        coalesced = tensor.layout is torch.sparse_coo and tensor.is_coalesced()
        return cls(tensor.layout, tuple(tensor.shape), tensor.dense_dim(), coalesced)

    @property
    def names(self) -> tuple[str, ...]:
        """The methods that return the dense tensors of which one consists, in the order of ``parts_of_sparse``."""
        if self.layout is torch.sparse_coo:
            return "indices", "values"
        rows = self.layout in _BY_ROWS
        return ("crow_indices", "col_indices", "values") if rows else ("ccol_indices", "row_indices", "values")

    @property
    def number_of_parts(self) -> int:
        """How many dense tensors a tensor of this form consists of."""
        return len(self.names)


def is_sparse(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is in one of ``LAYOUTS``."""
    return tensor.layout in LAYOUTS


def parts_of_sparse(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The dense tensors that a sparse one consists of, in its own memory."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    rows = tensor.layout in _BY_ROWS
    compressed, plain = (tensor.crow_indices, tensor.col_indices) if rows else (tensor.ccol_indices, tensor.row_indices)
    return compressed().data, plain().data, tensor.values().data  # without .data, they are views of the sparse tensor


def put_together(form: SparseForm, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sparse tensor of ``parts``, in their memory. Nothing is checked."""
    values = parts[-1]
    options: dict[str, Any] = {"dtype": values.dtype, "layout": form.layout, "device": values.device}
    if form.layout is not torch.sparse_coo:
        compressed, plain, _ = parts
        return torch.ops.aten._sparse_compressed_tensor_unsafe(compressed, plain, values, form.size, **options)
    dims = (len(form.size) - form.dense_dims, form.dense_dims)
    make = torch.ops.aten._sparse_coo_tensor_with_dims_and_tensors
    return make(*dims, form.size, parts[0], values, **options, is_coalesced=form.coalesced)


def fake_sparse(mode: FakeTensorMode, form: SparseForm, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """A fake of a sparse tensor of fake ``parts``, for its form alone: it does not hold them."""
    with _disable_current_modes():
        empty = [torch.empty(part.shape, dtype=part.dtype, device="meta") for part in parts]
        return FakeTensor(mode, put_together(form, empty), parts[-1].device)
