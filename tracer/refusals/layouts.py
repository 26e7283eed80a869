"""Refusals of tensors without strides, other than the sparse and jagged ones that can be planned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.errors import InputsDoNotFitError, ModelNotSupportedError, UnsupportedOperatorError
from remat_planner.tracer.torch_nested import is_jagged
from remat_planner.tracer.torch_sparse import is_sparse

_INSTEAD = (
    "Plan the blocks around what reads it and leave that to eager (remat_planner.plan(model, ..., regions=...)), or compute it "
    "densely: rows by index_select and scatter_add, padded batches with a mask"
)
_PLANNED = "Sparse tensors can be planned, and nested ones of layout=torch.jagged that are inputs or made in the forward"
_MAKERS = ("aten::to_mkldnn", "aten::_nested_tensor", "aten::_nested_view", "aten::nested_", "aten::quantize_per")
"""How the names of operators begin that make such tensors."""
_FROM_VALUES = (
    "Make its values the parameter or input, and the tensor of them in the forward "
    "(torch.sparse_coo_tensor(indices, values, size), torch.nested.nested_tensor_from_jagged(values, offsets))"
)
_OF_NESTED = ("nested_tensor", "NestedTensor", "shape_env must not be None")
"""In messages of nested tensors that are made under a trace."""


def can_be_planned(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one piece of memory with strides, or sparse: then it consists of such tensors."""
    return (tensor.layout is torch.strided or is_sparse(tensor)) and not tensor.is_nested and not tensor.is_quantized


def refuse_input_layout(tensor: torch.Tensor) -> None:
    """Refuse an input that is neither strided nor sparse, or that is sparse and requires a gradient.

    Raises:
        InputsDoNotFitError: it is such.
    """
    if not can_be_planned(tensor) and not is_jagged(tensor):
        raise InputsDoNotFitError(
            f"an input is {_described(tensor)}, and a captured step computes on tensors with strides. {_INSTEAD}. {_PLANNED}",
            source="",
        )
    if tensor.requires_grad and (is_sparse(tensor) or is_jagged(tensor)):
        raise InputsDoNotFitError(
            f"an input is {_described(tensor)} and requires a gradient, and a captured step returns dense gradients alone. "
            f"{_FROM_VALUES}",
            source="",
        )


def refuse_state_layout(model: nn.Module) -> None:
    """Refuse a model with a parameter that is not strided, or a buffer that is not sparse either.

    Raises:
        ModelNotSupportedError: there is one; it is named.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_sparse(tensor) and tensor.requires_grad:
            raise ModelNotSupportedError(
                f"{name} is {_described(tensor)} and requires a gradient, and a captured step returns dense gradients alone. "
                f"{_FROM_VALUES}",
                kind=str(tensor.layout),
            )
        if not can_be_planned(tensor):
            raise ModelNotSupportedError(
                f"{name} is {_described(tensor)}, and a captured step computes on tensors with strides. {_INSTEAD}. {_PLANNED}",
                kind=str(tensor.layout),
            )


def refuse_made_layout(operator: torch._ops.OpOverload, source: str) -> None:
    """Refuse an operator that makes a tensor that is neither strided nor sparse.

    Raises:
        UnsupportedOperatorError: it does.
    """
    if operator._schema.name.startswith(_MAKERS):
        raise UnsupportedOperatorError(
            f"{source or 'the model'}: {operator} makes a nested or quantized tensor, or one in a layout of a library's own, "
            f"and a captured step computes on tensors with strides. {_INSTEAD}. {_PLANNED}",
            operator=str(operator),
            source=source,
        )


def refuse_output_layouts(leaves: Sequence[Any]) -> None:
    """Refuse a forward that returns a sparse or nested tensor, or leaves one in Python state.

    Raises:
        UnsupportedOperatorError: it does.
    """
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and (leaf.is_nested or is_sparse(leaf)):
            raise UnsupportedOperatorError(
                f"the forward returns or stores {_described(leaf)}, and a captured step returns dense tensors alone. Return "
                "its parts (values() and indices() or offsets()), or a dense tensor (to_dense(), to_padded_tensor(0.0))",
                operator=str(leaf.layout),
                source="",
            )


def sparse_operator_error(operator: Any, source: str, why: str) -> UnsupportedOperatorError:
    """For an operator on sparse tensors that cannot be one of the captured step; ``why`` says why."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: {operator} on sparse tensors cannot be captured: {why}. {_INSTEAD}",
        operator=str(operator),
        source=source,
    )


def nested_loss_error(source: str) -> UnsupportedOperatorError:
    """For a loss that computes with nested tensors."""
    return UnsupportedOperatorError(
        f"{source or 'the loss'}: the loss computes with a nested tensor, and how long that keeps its parts is not known. Make "
        "it in the forward, or compute on its values there (values())",
        operator="torch.nested",
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
    if tensor.is_quantized:
        return f"a quantized tensor ({tensor.dtype})"
    return "a nested tensor" if tensor.is_nested else f"a tensor of layout {tensor.layout}"
