"""Parts of the tables' rules for sample inputs: the values that an argument needs, and the limits of indices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from remat_planner.tracer.operators.facts import SampleInputs
from remat_planner.tracer.operators.op_call import OpCall, TensorSpec

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


@dataclass(frozen=True, slots=True)
class Rising:
    """Numbers that rise in equal steps from 0 to ``last``: as many distinct ones as there can be up to it."""

    last: int

    def __call__(self, flat: torch.Tensor) -> None:
        flat.copy_(torch.arange(flat.numel()) * self.last // max(1, flat.numel() - 1))


@dataclass(frozen=True, slots=True)
class RisingAlong:
    """The numbers of ``Rising`` along one dimension of ``tensor``, the same everywhere else."""

    last: int
    tensor: TensorSpec
    dim: int

    def __call__(self, flat: torch.Tensor) -> None:
        dim = self.dim % len(self.tensor.shape)
        size = self.tensor.shape[dim]
        rising = torch.arange(size) * self.last // max(1, size - 1)
        own = _without_repeats(flat, self.tensor)
        own.copy_(rising.view([size if i == dim else 1 for i in range(own.dim())]))


@dataclass(frozen=True, slots=True)
class Shares:
    """Integers that fall and add up to ``total``: equal ones, or, where the ``longest`` is given, it and equal ones.

    They fill each row of ``size`` numbers; by default all is one row.
    """

    total: int
    longest: int | None = None
    size: int | None = None

    def __call__(self, flat: torch.Tensor) -> None:
        size = flat.numel() if self.size is None else self.size
        first = [] if self.longest is None else [self.longest]
        share, more = divmod(self.total - sum(first), max(1, size - len(first)))
        row = first + [share + (i < more) for i in range(size - len(first))]
        flat.view(-1, size).copy_(torch.tensor(row))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A mask of this form with this number of ones, evenly spread; one that repeats itself has a multiple of them at most."""

    tensor: TensorSpec
    ones: int

    def __call__(self, flat: torch.Tensor) -> None:
        own = _without_repeats(flat, self.tensor)
        count = own.numel()
        ones = self.ones * count // max(1, math.prod(self.tensor.shape))
        before = torch.arange(count + 1) * ones // max(1, count)
        own.copy_(before.diff().view(own.shape))


def _without_repeats(flat: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """The tensor of this form in its storage; a dimension along which its elements are one has size 1."""
    sizes = [size if step else 1 for size, step in zip(spec.shape, spec.stride, strict=True)]
    return flat.as_strided(sizes, spec.stride, spec.offset)


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
    """The number of classes that ``name`` scores: its second dimension, or its only one; 1 for a tensor without."""

    def classes(call: OpCall) -> int:
        shape = call.argument(name).shape
        return shape[1] if len(shape) > 1 else _size(shape, 0)

    return classes


def _size(shape: tuple[int, ...], dim: int) -> int:
    return shape[dim] if shape else 1
