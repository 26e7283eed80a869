"""Parts of the tables' rules for sample inputs: the values that an argument needs, and the limits of indices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from remat_planner.tracer.operators.facts import SampleInputs
from remat_planner.tracer.operators.op_call import OpCall

Limit = Callable[[OpCall], int]


@dataclass(frozen=True, slots=True)
class SegmentEnds:
    """Integers that rise in equal steps to ``rows``: the row after the last of each of several equal segments."""

    rows: int

    def __call__(self, flat: torch.Tensor) -> None:
        flat.copy_(torch.arange(1, flat.numel() + 1) * self.rows // max(1, flat.numel()))


@dataclass(frozen=True, slots=True)
class SegmentStarts:
    """Integers that rise in equal steps from 0: the first row of each of several equal segments of ``rows`` rows."""

    rows: int

    def __call__(self, flat: torch.Tensor) -> None:
        flat.copy_(torch.arange(flat.numel()) * self.rows // max(1, flat.numel()))


@dataclass(frozen=True, slots=True)
class SegmentLengths:
    """Integers whose sum is ``rows`` in each group of ``count``: the lengths of segments, as equal as can be."""

    rows: int
    count: int

    def __call__(self, flat: torch.Tensor) -> None:
        lengths = torch.full((self.count,), self.rows // max(1, self.count))
        lengths[: self.rows - int(lengths.sum())] += 1
        flat.copy_(lengths.repeat(flat.numel() // max(1, self.count)))


@dataclass(frozen=True, slots=True)
class PositiveDefinite:
    """Square matrices of ``size`` rows: 1 on the diagonal, and small numbers beside it."""

    size: int

    def __call__(self, flat: torch.Tensor) -> None:
        matrix = torch.full((self.size, self.size), 1e-3 / self.size, dtype=flat.dtype).fill_diagonal_(1)
        flat.copy_(matrix.reshape(-1).repeat(-(-flat.numel() // max(1, matrix.numel())))[: flat.numel()])


@dataclass(frozen=True, slots=True)
class AllEqual:
    """The same number everywhere."""

    value: int

    def __call__(self, flat: torch.Tensor) -> None:
        flat.fill_(self.value)


def indices(name: str, limit: Limit) -> SampleInputs:
    """The argument ``name`` holds integers from [0, limit)."""
    return lambda call: {name: limit(call)}


def value_of(name: str) -> Limit:
    """The integer argument ``name``."""
    return lambda call: int(call.argument(name))


def rows_of(name: str) -> Limit:
    """The size of the first dimension of ``name``; 1 for a tensor without dimensions."""
    return lambda call: _size(call.argument(name).shape, 0)


def size_along_dim(call: OpCall) -> int:
    """The size of ``self`` along the argument ``dim``."""
    return _size(call.argument("self").shape, int(call.argument("dim")))


def elements_of(name: str) -> Limit:
    """The number of elements of ``name``."""
    return lambda call: math.prod(call.argument(name).shape)


def last_dimensions_of(name: str, count: int) -> Limit:
    """The number of elements in the last ``count`` dimensions of ``name``: the positions in one pooled plane."""
    return lambda call: math.prod(call.argument(name).shape[-count:])


def classes_of(name: str) -> Limit:
    """The number of classes that ``name`` scores: its second dimension, or its only one."""

    def classes(call: OpCall) -> int:
        shape = call.argument(name).shape
        return shape[1] if len(shape) > 1 else shape[0]

    return classes


def _size(shape: tuple[int, ...], dim: int) -> int:
    return shape[dim] if shape else 1
