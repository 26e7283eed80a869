"""Choices of indices. Run again on values that differ in the last bit, they may choose differently, so they run once."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts
from remat_planner.tracer.operators.op_call import OpCall
from remat_planner.tracer.operators.sample_rules import indices

_CHOOSES = OperatorFacts(pinned="routing: a recomputed choice of indices may differ")


def _size_of_reduced_dim(call: OpCall) -> int:
    size: int = call.argument("sizes")[call.argument("dim")]
    return size


TABLE: Mapping[str, OperatorFacts] = {
    "aten::topk": _CHOOSES,
    "aten::sort": _CHOOSES,
    "aten::argsort": _CHOOSES,
    "aten::kthvalue": _CHOOSES,
    "aten::argmax": _CHOOSES,
    "aten::argmin": _CHOOSES,
    "aten::mode": _CHOOSES,
    "aten::multinomial": _CHOOSES,
    # Their other overloads return values alone.
    "aten::max.dim": _CHOOSES,
    "aten::min.dim": _CHOOSES,
    "aten::median.dim": _CHOOSES,
    "aten::nanmedian.dim": _CHOOSES,
    # The backward of the choices above.
    "aten::value_selecting_reduction_backward": OperatorFacts(sample_inputs=indices("indices", _size_of_reduced_dim)),
}
