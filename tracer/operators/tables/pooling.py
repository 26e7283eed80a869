"""Pooling by indices: each names a position in the plane that was pooled."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts
from remat_planner.tracer.operators.op_call import OpCall
from remat_planner.tracer.operators.sample_rules import indices, last_dimensions_of

_IN_PLANE = OperatorFacts(sample_inputs=indices("indices", last_dimensions_of("self", 2)))
_IN_VOLUME = OperatorFacts(sample_inputs=indices("indices", last_dimensions_of("self", 3)))


def _output_plane(call: OpCall) -> int:
    height, width = call.argument("output_size")
    return height * width


TABLE: Mapping[str, OperatorFacts] = {
    "aten::max_pool2d_with_indices_backward": _IN_PLANE,
    "aten::max_pool3d_with_indices_backward": _IN_VOLUME,
    "aten::adaptive_max_pool2d_backward": _IN_PLANE,
    "aten::adaptive_max_pool3d_backward": _IN_VOLUME,
    "aten::fractional_max_pool2d_backward": _IN_PLANE,
    "aten::max_unpool2d": OperatorFacts(sample_inputs=indices("indices", _output_plane)),
}
