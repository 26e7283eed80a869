"""Bytes that a call reads and writes, for rooflines."""

from __future__ import annotations

import math

import torch

from remat_planner.tracer.operators.op_call import OpCall, TensorSpec


def each_once(call: OpCall) -> int:
    """Every argument is read once and every result written once."""
    return sum(map(_bytes_of, dict.fromkeys(call.tensors))) + written(call)


def selected_rows(call: OpCall) -> int:
    """As ``each_once``, but of the first argument no more is read than is written: only the rows that an index names."""
    first = _first(call)
    return each_once(call) - (max(0, _bytes_of(first) - written(call)) if first else 0)


def all_but_first(call: OpCall) -> int:
    """As ``each_once``, but the first argument only lends its form or its device and is not read."""
    first = _first(call)
    return each_once(call) - (_bytes_of(first) if first else 0)


def written(call: OpCall) -> int:
    """Bytes of the results."""
    return sum(_stored_bytes(output.shape, output.stride(), output.dtype) for output in call.outputs if output is not None)


def _first(call: OpCall) -> TensorSpec | None:
    return next(iter(call.tensors), None)


def _bytes_of(spec: TensorSpec) -> int:
    return _stored_bytes(spec.shape, spec.stride, spec.dtype)


def _stored_bytes(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes in memory; an expanded dimension stores its elements once."""
    return math.prod(size for size, step in zip(shape, stride, strict=True) if step) * dtype.itemsize if 0 not in shape else 0
