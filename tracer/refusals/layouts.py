"""Refusals of tensors that are no one piece of memory with strides: sparse, nested, in a layout of a library's own."""

from __future__ import annotations

import torch
from torch import nn

from remat_planner.tracer.errors import InputsDoNotFitError, ModelNotSupportedError, UnsupportedOperatorError

_INSTEAD = (
    "Plan the blocks around what reads it and leave that to eager (remat_planner.plan(model, ..., regions=...)), or compute it "
    "densely: rows by index_select and scatter_add, padded batches with a mask"
)
_MAKERS = (
    *("aten::_sparse_coo_tensor", "aten::sparse_coo_tensor", "aten::_sparse_csr", "aten::sparse_csr", "aten::_sparse_csc"),
    *("aten::_sparse_bs", "aten::_sparse_compressed", "aten::sparse_compressed", "aten::_to_sparse", "aten::to_mkldnn"),
    *("aten::_validate_sparse", "aten::_nested_tensor", "aten::_nested_view", "aten::nested_"),
)
"""How the names of operators begin that make such tensors."""
_OF_NESTED = ("nested_tensor", "NestedTensor", "shape_env must not be None")
"""In messages of nested tensors that are made under a trace."""


def is_strided(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one piece of memory with strides."""
    return tensor.layout is torch.strided and not tensor.is_nested


def refuse_input_layout(tensor: torch.Tensor) -> None:
    """Refuse an input that is not strided.

    Raises:
        InputsDoNotFitError: it is not.
    """
    if not is_strided(tensor):
        raise InputsDoNotFitError(
            f"an input is {_described(tensor)}, and a captured step computes on tensors with strides. {_INSTEAD}", source=""
        )


def refuse_state_layout(model: nn.Module) -> None:
    """Refuse a model with a parameter or buffer that is not strided.

    Raises:
        ModelNotSupportedError: there is one; it is named.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not is_strided(tensor):
            raise ModelNotSupportedError(
                f"{name} is {_described(tensor)}, and a captured step computes on tensors with strides. {_INSTEAD}",
                kind=str(tensor.layout),
            )


def refuse_made_layout(operator: torch._ops.OpOverload, source: str) -> None:
    """Refuse an operator that makes a tensor without strides.

    Raises:
        UnsupportedOperatorError: it does.
    """
    if operator._schema.name.startswith(_MAKERS):
        raise UnsupportedOperatorError(
            f"{source or 'the model'}: {operator} makes a sparse or nested tensor, or one in a layout of a library's own, and "
            f"a captured step computes on tensors with strides. {_INSTEAD}",
            operator=str(operator),
            source=source,
        )


def nested_tensor_error(error: Exception, source: str) -> UnsupportedOperatorError | None:
    """For nested tensors that the code makes, of which PyTorch's tracer says so; None for any other error."""
    if not any(text in str(error) for text in _OF_NESTED):
        return None
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the code makes a nested tensor, and a captured step computes on tensors with strides. "
        f"{_INSTEAD}",
        operator="torch.nested",
        source=source,
    )


def _described(tensor: torch.Tensor) -> str:
    return "a nested tensor" if tensor.is_nested else f"a tensor of layout {tensor.layout}"
