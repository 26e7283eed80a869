"""Operators whose results are as large as values say: a sample call has results of the size that it has in the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from remat_planner.tracer.operators.facts import OperatorFacts, SampleInputs, Values
from remat_planner.tracer.operators.op_call import OpCall, TensorSpec
from remat_planner.tracer.operators.sample_rules import Chosen, Rising, RisingAlong, Shares

Sample = Mapping[str | TensorSpec, Values]


def _rows(call: OpCall, result: int = 0, dim: int = 0) -> int:
    output = call.outputs[result]
    assert output is not None
    return int(output.shape[dim])


def _mask(name: str, ones: Callable[[OpCall], int]) -> SampleInputs:
    return lambda call: {name: Chosen(call.argument(name), ones(call))}


def _selected(call: OpCall) -> Sample:
    """The mask is broadcast to the tensor, or the tensor to the mask."""
    tensor, mask = call.argument("self"), call.argument("mask")
    whole = math.prod(mask.shape)
    repeated = max(1, math.prod(tensor.shape) // max(1, whole))
    return {"mask": Chosen(mask, _rows(call) // repeated)}


def _scattered(call: OpCall) -> Sample:
    """As many ones as the source has elements, in a mask that may be broadcast."""
    return _most_ones(call, call.argument("self"), call.argument("source").shape)


def _scattered_backward(call: OpCall) -> Sample:
    """The mask for which the kernel takes most memory.

    It appends zeros for elements of the source that were left over, by a copy of the whole. A mask that repeats itself is
    copied, and with it what it selects.
    """
    mask, tensor = call.argument("mask"), call.argument("grad_output")
    own = math.prod(size for size, step in zip(mask.shape, mask.stride, strict=True) if step)
    return _most_ones(call, tensor, call.argument("sizes"), left=1 if own >= math.prod(tensor.shape) else 0)


def _most_ones(call: OpCall, tensor: TensorSpec, source: Sequence[int], *, left: int = 0) -> Sample:
    mask, whole = call.argument("mask"), math.prod(tensor.shape)
    ones = max(0, min(whole, math.prod(source)) - left) * math.prod(mask.shape) // max(1, whole)
    return {"mask": Chosen(mask, ones)}


def _distinct(call: OpCall) -> Sample:
    return {"self": Rising(max(0, _rows(call) - 1))}


def _distinct_slices(call: OpCall) -> Sample:
    dim = call.argument("dim")
    if dim is None:
        return _distinct(call)
    tensor = call.argument("self")
    return {"self": RisingAlong(max(0, _rows(call, dim=dim) - 1), tensor, dim)}


def _packed(call: OpCall) -> Sample:
    return {"lengths": Shares(_rows(call), longest=_rows(call, result=1))}


def _segments(call: OpCall) -> Sample:
    """The lengths, or the differences of the offsets, add up to the size of the dimension that is reduced."""
    size = call.argument("data").shape[call.argument("axis")]
    lengths, offsets = call.argument("lengths"), call.argument("offsets")
    values: dict[str | TensorSpec, Values] = {}
    if isinstance(lengths, TensorSpec):
        values["lengths"] = Shares(size, size=lengths.shape[-1])
    if isinstance(offsets, TensorSpec):
        values["offsets"] = Rising(size)
    return values


_SEGMENTS = OperatorFacts(sample_inputs=_segments)
_DISTINCT = OperatorFacts(sample_inputs=_distinct)
_DISTINCT_SLICES = OperatorFacts(sample_inputs=_distinct_slices)

TABLE: Mapping[str, OperatorFacts] = {
    "aten::nonzero": OperatorFacts(sample_inputs=_mask("self", _rows)),
    "aten::masked_select": OperatorFacts(sample_inputs=_selected),
    "aten::masked_scatter": OperatorFacts(sample_inputs=_scattered),
    "aten::masked_scatter_backward": OperatorFacts(sample_inputs=_scattered_backward),
    "aten::repeat_interleave.Tensor": OperatorFacts(sample_inputs=lambda call: {"repeats": Shares(_rows(call))}),
    "aten::bincount": _DISTINCT,
    "aten::_unique": _DISTINCT,
    "aten::_unique2": _DISTINCT,
    "aten::unique_dim": _DISTINCT_SLICES,
    "aten::unique_consecutive": _DISTINCT_SLICES,
    "aten::_pack_padded_sequence": OperatorFacts(sample_inputs=_packed),
    "aten::segment_reduce": _SEGMENTS,
    "aten::_segment_reduce_backward": _SEGMENTS,
}
