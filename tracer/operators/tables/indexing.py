"""Operators that take indices: sample indices must be in range, and a lookup reads only the rows that they name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remat_planner.tracer.operators.facts import OperatorFacts, Roofline, Values
from remat_planner.tracer.operators.op_call import OpCall, TensorSpec
from remat_planner.tracer.operators.sample_rules import (
    AllEqual,
    Chosen,
    SegmentStarts,
    elements_of,
    indices,
    rows_of,
    size_along_dim,
    value_of,
)
from remat_planner.tracer.operators.traffic import selected_rows


def _advanced_indexing(call: OpCall) -> dict[str | TensorSpec, Values]:
    """``x[i, :, j]``: an index tensor is limited by the dimension in whose place it stands; a boolean one takes the place of
    as many as it has, and is true as often as there are rows.
    """
    shape = call.argument("self").shape
    rows = _rows(call)
    values: dict[str | TensorSpec, Values] = {}
    dim = 0
    for index in call.argument("indices"):
        if not isinstance(index, TensorSpec):
            dim += 1
        elif index.dtype in (torch.bool, torch.uint8):
            values[index] = AllEqual(1) if rows is None else Chosen(index, rows)
            dim += len(index.shape)
        else:
            before = values.get(index)
            values[index] = min(shape[dim], before) if isinstance(before, int) else shape[dim]
            dim += 1
    return values


def _rows(call: OpCall) -> int | None:
    """How many rows boolean indices choose; None where the call does not tell, as ``x[mask] = 0``."""
    tensor, indices = call.argument("self"), call.argument("indices")
    covered = sum(len(i.shape) if i.dtype in _MASKS else 1 for i in indices if isinstance(i, TensorSpec))
    rest = len(tensor.shape) - covered
    if call.target in (torch.ops.aten.index.Tensor, torch.ops.aten._unsafe_index.Tensor):
        chosen = call.outputs[0]
        return None if chosen is None else _among(tuple(chosen.shape), tensor.shape, indices)
    values = call.argument("values")
    return _among(values.shape, tensor.shape, indices) if len(values.shape) == 1 + rest else None


def _among(shape: tuple[int, ...], indexed: tuple[int, ...], indices: Sequence[Any]) -> int:
    """The rows in ``shape``, which has them in the place of the dimensions that ``indices`` cover."""
    dim, uncovered = 0, 1
    for index in indices:
        masks = isinstance(index, TensorSpec) and index.dtype in _MASKS
        uncovered *= 1 if isinstance(index, TensorSpec) else indexed[dim]
        dim += len(index.shape) if masks else 1
    return math.prod(shape) // max(1, uncovered * math.prod(indexed[dim:]))


def _bags(call: OpCall) -> dict[str | TensorSpec, Values]:
    """Indices of rows, and offsets at which equal bags begin."""
    return {"indices": call.argument("weight").shape[0], "offsets": SegmentStarts(call.argument("indices").shape[0])}


def _bags_backward(call: OpCall) -> dict[str | TensorSpec, Values]:
    """No bag is empty, so that the backward selects all of the gradients: the most bytes that it can."""
    rows = call.argument("num_weights")
    return {
        "indices": rows,
        "maximum_indices": rows,
        "offset2bag": SegmentStarts(call.argument("grad").shape[0]),
        "bag_size": AllEqual(1),
    }


_MASKS = (torch.bool, torch.uint8)
_READS_ROWS = Roofline(bytes_moved=selected_rows)
_ALONG_DIM = indices("index", size_along_dim)
_INTO_DIM = OperatorFacts(sample_inputs=_ALONG_DIM)
_FROM_DIM = OperatorFacts(sample_inputs=_ALONG_DIM, roofline=_READS_ROWS)
_FROM_ANYWHERE = OperatorFacts(sample_inputs=_advanced_indexing, roofline=_READS_ROWS)
_INTO_ANYWHERE = OperatorFacts(sample_inputs=_advanced_indexing)
_EMBEDDING_BACKWARD = OperatorFacts(sample_inputs=indices("indices", value_of("num_weights")))
_BAGS_BACKWARD = OperatorFacts(sample_inputs=_bags_backward)
_ANY_ELEMENT = indices("index", elements_of("self"))

TABLE: Mapping[str, OperatorFacts] = {
    "aten::embedding": OperatorFacts(sample_inputs=indices("indices", rows_of("weight")), roofline=_READS_ROWS),
    "aten::embedding_dense_backward": _EMBEDDING_BACKWARD,
    "aten::embedding_backward": _EMBEDDING_BACKWARD,
    "aten::_embedding_bag": OperatorFacts(sample_inputs=_bags, roofline=_READS_ROWS),
    "aten::_embedding_bag_forward_only": OperatorFacts(sample_inputs=_bags),
    "aten::_embedding_bag_backward": _BAGS_BACKWARD,
    "aten::_embedding_bag_dense_backward": _BAGS_BACKWARD,
    "aten::gather": _FROM_DIM,
    "aten::index_select": _FROM_DIM,
    "aten::scatter": _INTO_DIM,
    "aten::scatter_": _INTO_DIM,
    "aten::scatter_add": _INTO_DIM,
    "aten::scatter_add_": _INTO_DIM,
    "aten::scatter_reduce": _INTO_DIM,
    "aten::scatter_reduce_": _INTO_DIM,
    "aten::index_add": _INTO_DIM,
    "aten::index_add_": _INTO_DIM,
    "aten::index_copy": _INTO_DIM,
    "aten::index_fill": _INTO_DIM,
    "aten::index_reduce": _INTO_DIM,
    "aten::index": _FROM_ANYWHERE,
    "aten::_unsafe_index": _FROM_ANYWHERE,
    "aten::index_put": _INTO_ANYWHERE,
    "aten::index_put_": _INTO_ANYWHERE,
    "aten::_unsafe_index_put": _INTO_ANYWHERE,
    "aten::_index_put_impl_": _INTO_ANYWHERE,
    "aten::take": OperatorFacts(sample_inputs=_ANY_ELEMENT, roofline=_READS_ROWS),
    "aten::put": OperatorFacts(sample_inputs=_ANY_ELEMENT),
}
