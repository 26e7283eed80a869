"""Products whose FLOPs PyTorch has no formula for, and solvers that take pivots."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts, Values
from remat_planner.tracer.operators.op_call import OpCall, TensorSpec
from remat_planner.tracer.operators.sample_rules import AllEqual, PositiveDefinite, SegmentEnds


def _matrix_vector_flops(call: OpCall) -> int:
    matrix = next(spec for spec in call.tensors if len(spec.shape) == 2)
    return 2 * matrix.shape[0] * matrix.shape[1]


def _dot_flops(call: OpCall) -> int:
    return 2 * call.tensors[0].shape[0]


def _outer_flops(call: OpCall) -> int:
    result = next(output for output in call.outputs if output is not None)
    return 2 * result.numel()


def _grouped_flops(call: OpCall) -> int:
    """Every row meets the one matrix of its group; without offsets both factors are batches."""
    left, right = call.tensors[0].shape, call.tensors[1].shape
    batch = left[0] if len(left) == len(right) == 3 else 1
    return 2 * batch * left[-2] * left[-1] * right[-1]


def _equal_groups(call: OpCall) -> dict[str | TensorSpec, Values]:
    """The offsets cut into equal groups the dimension that has no place in the other factor, or that both contract."""
    left, right = call.argument("self").shape, call.argument("mat2").shape
    grouped = right[-1] if len(left) == 3 else left[-2] if len(right) == 3 else left[-1]
    return {"offs": SegmentEnds(grouped)}


def _pivots(name: str) -> OperatorFacts:
    """Rows to exchange, counted from 1: the first always exists."""
    return OperatorFacts(sample_inputs=lambda _: {name: AllEqual(1)})


def _positive_definite(name: str) -> OperatorFacts:
    return OperatorFacts(sample_inputs=lambda call: {name: PositiveDefinite(call.argument(name).shape[-1])})


TABLE: Mapping[str, OperatorFacts] = {
    "aten::mv": OperatorFacts(flops=_matrix_vector_flops),
    "aten::addmv": OperatorFacts(flops=_matrix_vector_flops),
    "aten::dot": OperatorFacts(flops=_dot_flops),
    "aten::vdot": OperatorFacts(flops=_dot_flops),
    "aten::addr": OperatorFacts(flops=_outer_flops),
    "aten::_grouped_mm": OperatorFacts(flops=_grouped_flops, sample_inputs=_equal_groups),
    "aten::cholesky": _positive_definite("self"),
    "aten::cholesky_inverse": _positive_definite("self"),
    "aten::linalg_cholesky_ex": _positive_definite("self"),
    "aten::linalg_lu_solve": _pivots("pivots"),
    "aten::linalg_ldl_solve": _pivots("pivots"),
    "aten::lu_unpack": _pivots("LU_pivots"),
}
