"""Any tensor as the plain dense tensors that it is made of: a sparse one as indices and values, a conjugate view as values."""

from __future__ import annotations

import torch
from torch import nn

from remat_planner.planner.distributed import local_part
from remat_planner.planner.torch_private import coordinates_and_values
from remat_planner.tracer.joint import computes_as_plain
from remat_planner.tracer.torch_private import is_fake

_COMPRESSED_ROWS = (torch.sparse_csr, torch.sparse_bsr)
_COMPRESSED_COLUMNS = (torch.sparse_csc, torch.sparse_bsc)
_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)


def parts_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The parts of ``tensor`` on this rank. Two tensors of one type, shape and dtype are equal if these are.

    A fake tensor or one on the meta device has no parts.
    """
    tensor = local_part(tensor).detach()
    if is_fake(tensor) or tensor.device.type == "meta":
        return []
    if hasattr(tensor, "__tensor_flatten__"):
        inner = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        return [part for one in inner if isinstance(one, torch.Tensor) for part in parts_of(one)]
    if tensor.is_nested:
        return [part for one in tensor.unbind() for part in parts_of(one)]
    if tensor.layout is torch.sparse_coo:
        indices, values = coordinates_and_values(tensor)
        return [indices, *parts_of(values)]
    if tensor.layout in _COMPRESSED_ROWS:
        return [tensor.crow_indices(), tensor.col_indices(), *parts_of(tensor.values())]
    if tensor.layout in _COMPRESSED_COLUMNS:
        return [tensor.ccol_indices(), tensor.row_indices(), *parts_of(tensor.values())]
    if tensor.is_mkldnn:
        return [tensor.to_dense()]
    if tensor.is_quantized:
        return [tensor.int_repr()]
    if type(tensor) not in _PLAIN:
        tensor = tensor.as_subclass(torch.Tensor)  # a subclass may do as it likes with the operators of a comparison
    return [tensor.resolve_conj().resolve_neg()]


def kind_of(tensor: torch.Tensor) -> tuple[object, ...]:
    """What two tensors have in common whose parts can be compared."""
    tensor = local_part(tensor).detach()
    kind = torch.Tensor if computes_as_plain(type(tensor)) else type(tensor)  # a planned step returns plain ones
    return kind, tensor.dtype, None if tensor.is_nested else tensor.shape, tensor.layout
