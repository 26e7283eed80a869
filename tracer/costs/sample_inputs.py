"""Real arguments for one operator call: right shapes, strides, dtypes and aliasing, and values that the operator accepts.

Values matter twice. An index out of range fails, and indices that are all alike, denormal numbers or NaN run at other speeds
than a training step does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.costs.op_call import OpCall, TensorSpec, argument, schema_of, writes

_BLOCK = 1 << 20  # elements drawn at random; longer storages repeat them, since drawing is far slower than copying

aten = torch.ops.aten


class SampleArguments:
    """Makes arguments for one call after another, never holding more than one call needs.

    Storages that the next call can use are handed on: neighbours in a graph often take tensors of one size, and touching new
    pages takes longer than the operators themselves.
    """

    def __init__(self) -> None:
        self._left: dict[_Content, list[torch.UntypedStorage]] = {}

    def make(self, call: OpCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Tensors for every tensor argument of ``call``, as positional and named arguments; forget them before the next.

        Floating point values are uniform in [0.25, 0.75), within the domain of every common operator (logarithms, roots,
        probabilities, variances); for matrix products, convolutions and attention they are normal, as their speed on a GPU
        depends on how many bits change. Draws from the global random generators.
        """
        storages = self._storages(_contents(call))

        def real(leaf: Any) -> Any:
            if not isinstance(leaf, TensorSpec):
                return leaf
            tensor = torch.empty(0, dtype=leaf.dtype, device=call.storages[leaf.storage].device)
            return tensor.set_(storages[leaf.storage], leaf.offset, leaf.shape, leaf.stride)

        args, kwargs = pytree.tree_map(real, (call.args, call.kwargs))
        if writes(call):
            self._left.clear()
        return args, kwargs

    def _storages(self, contents: list[_Content]) -> list[torch.UntypedStorage]:
        found = [self._left[content].pop() if self._left.get(content) else None for content in contents]
        self._left.clear()  # what this call cannot use is freed before more is allocated
        storages = [content.make() if storage is None else storage for content, storage in zip(contents, found, strict=True)]
        for content, storage in zip(contents, storages, strict=True):
            self._left.setdefault(content, []).append(storage)
        return storages


@dataclass(frozen=True, slots=True)
class _Rising:
    """Integers that rise in equal steps: where each group of ``end`` rows ends, or where it begins."""

    end: int
    begins: bool = False


@dataclass(frozen=True, slots=True)
class _All:
    """Integers that are all ``value``."""

    value: int


Limit = int | _Rising | _All | None


@dataclass(frozen=True, slots=True)
class _Content:
    """What a storage is filled with: integers below ``limit``; where that is None, small positive ones, as divisors must be."""

    bytes: int
    device: torch.device
    dtype: torch.dtype
    limit: Limit
    normal: bool

    def make(self) -> torch.UntypedStorage:
        flat = torch.empty(-(-self.bytes // self.dtype.itemsize), dtype=self.dtype, device=self.device)
        _fill(flat, self.limit, normal=self.normal)
        return flat.untyped_storage()


def _contents(call: OpCall) -> list[_Content]:
    """For each storage of ``call``: its content, by the first argument that views it."""
    limits = _integer_limits(call)
    # An integer that an operator might use as an index must be one: many kernels do not check. 0 always is.
    elementwise = torch.Tag.pointwise in getattr(call.target, "tags", ()) or "divide" in str(call.target)
    otherwise = None if elementwise else 1
    first: dict[int, TensorSpec] = {}
    for tensor in call.tensors:
        first.setdefault(tensor.storage, tensor)
    return [
        _Content(storage.bytes, storage.device, first[i].dtype, limits.get(first[i], otherwise), _is_product(call.target))
        for i, storage in enumerate(call.storages)
    ]


def _is_product(target: Callable[..., Any]) -> bool:
    name = str(target)
    return any(part in name for part in ("mm", "conv", "attention", "linear", "matmul"))


def _fill(flat: torch.Tensor, limit: Limit, *, normal: bool) -> None:
    """Fill a one-dimensional tensor; integers from ``[0, limit)``, or from ``[1, 8)`` where nothing limits them."""
    size = flat.numel()
    if isinstance(limit, _Rising):
        steps = torch.arange(size) if limit.begins else torch.arange(1, size + 1)
        flat.copy_(steps * limit.end // size)
        return
    if isinstance(limit, _All):
        flat.fill_(limit.value)
        return
    done = min(size, _BLOCK)
    block = flat[:done]
    if flat.dtype == torch.bool:
        block.random_(0, 2)
    elif flat.dtype.is_floating_point or flat.dtype.is_complex:
        real = torch.view_as_real(block) if flat.dtype.is_complex else block
        if real.element_size() == 1:  # 8-bit floating point has no generator of its own
            real.copy_(torch.empty(real.shape, device=real.device).uniform_(0.25, 0.75))
        elif normal:
            real.normal_()
        else:
            real.uniform_(0.25, 0.75)
    elif limit is None:
        block.random_(1, 8)
    else:
        block.random_(0, max(1, min(limit, torch.iinfo(flat.dtype).max)))
    while done < size:
        more = min(done, size - done)
        flat[done : done + more].copy_(flat[:more])
        done += more


def _integer_limits(call: OpCall) -> Mapping[TensorSpec, Limit]:
    """For each integer argument that indexes another: how large that other is along the indexed dimension."""
    rule = _RULES.get(getattr(call.target, "overloadpacket", call.target))
    return rule(call) if rule is not None else {}


def _rule(limit: Callable[[OpCall], int], *positions: int) -> Callable[[OpCall], dict[TensorSpec, int]]:
    return lambda call: {argument: limit(call) for p in positions if isinstance(argument := _argument(call, p), TensorSpec)}


def _argument(call: OpCall, position: int) -> Any:
    """Argument ``position`` of the operator's schema, however it was passed."""
    return argument(call, schema_of(call).arguments[position].name)


def _size(position: int, dim: Callable[[OpCall], int]) -> Callable[[OpCall], int]:
    def size(call: OpCall) -> int:
        shape = _argument(call, position).shape
        return shape[dim(call)] if shape else 1

    return size


def _along(position: int) -> Callable[[OpCall], int]:
    return lambda call: int(_argument(call, position))


def _at(dim: int) -> Callable[[OpCall], int]:
    return lambda _: dim


def _classes(position: int) -> Callable[[OpCall], int]:
    def classes(call: OpCall) -> int:
        shape = _argument(call, position).shape
        return shape[1] if len(shape) > 1 else shape[0]

    return classes


def _numel(position: int) -> Callable[[OpCall], int]:
    def numel(call: OpCall) -> int:
        size = 1
        for extent in _argument(call, position).shape:
            size *= extent
        return size

    return numel


def _plane(position: int, dims: int) -> Callable[[OpCall], int]:
    def plane(call: OpCall) -> int:
        size = 1
        for extent in _argument(call, position).shape[-dims:]:
            size *= extent
        return size

    return plane


def _advanced_indexing(call: OpCall) -> dict[TensorSpec, Limit]:
    """``x[i, :, j]``: each index tensor has the limit of the dimension in whose place it stands; boolean ones take several.

    Those are true everywhere: they are turned into as many indices as there can be.
    """
    shape = _argument(call, 0).shape
    limits: dict[TensorSpec, Limit] = {}
    dim = 0
    for index in _argument(call, 1):
        if not isinstance(index, TensorSpec):
            dim += 1
        elif index.dtype in (torch.bool, torch.uint8):
            limits[index] = _All(1)
            dim += len(index.shape)
        else:
            before = limits.get(index)
            limits[index] = min(shape[dim], before) if isinstance(before, int) else shape[dim]
            dim += 1
    return limits


def _bags(call: OpCall) -> dict[TensorSpec, Limit]:
    """Indices of rows, and offsets at which equal bags begin."""
    indices = _argument(call, 1)
    return {indices: _argument(call, 0).shape[0], _argument(call, 2): _Rising(indices.shape[0], begins=True)}


def _bags_backward(call: OpCall) -> dict[TensorSpec, Limit]:
    """No bag is empty: what is selected of the gradients is all of them, as many bytes as it can be."""
    rows, bags = argument(call, "num_weights"), argument(call, "grad").shape[0]
    limits: dict[str, Limit] = {
        "indices": rows,
        "maximum_indices": rows,
        "offset2bag": _Rising(bags, begins=True),
        "bag_size": _All(1),
    }
    return {argument(call, name): limit for name, limit in limits.items()}


def _groups(call: OpCall) -> dict[TensorSpec, Limit]:
    """Grouped products: the offsets cut the dimension that one factor has and the groups of the other share."""
    left, right, ends = (_argument(call, i) for i in range(3))
    if not isinstance(ends, TensorSpec):
        return {}
    grouped = right.shape[-1] if len(left.shape) == 3 else left.shape[-2] if len(right.shape) == 3 else left.shape[-1]
    return {ends: _Rising(grouped)}


def _pivots(position: int) -> Callable[[OpCall], dict[TensorSpec, Limit]]:
    """Rows to exchange, counted from 1: the first is always there."""
    return lambda call: {_argument(call, position): _All(1)}


_ROWS = _size(0, _at(0))
_INDEXED = _size(0, _along(1))

_RULES: dict[Any, Callable[[OpCall], Mapping[TensorSpec, Limit]]] = {
    aten.embedding: _rule(_ROWS, 1),
    aten.embedding_dense_backward: _rule(_along(2), 1),
    aten.embedding_backward: _rule(_along(2), 1),
    aten._embedding_bag: _bags,
    aten._embedding_bag_forward_only: _bags,
    aten._embedding_bag_backward: _bags_backward,
    aten._embedding_bag_dense_backward: _bags_backward,
    aten._grouped_mm: _groups,
    aten.gather: _rule(_INDEXED, 2),
    aten.scatter: _rule(_INDEXED, 2),
    aten.scatter_: _rule(_INDEXED, 2),
    aten.scatter_add: _rule(_INDEXED, 2),
    aten.scatter_add_: _rule(_INDEXED, 2),
    aten.scatter_reduce: _rule(_INDEXED, 2),
    aten.scatter_reduce_: _rule(_INDEXED, 2),
    aten.index_select: _rule(_INDEXED, 2),
    aten.index_add: _rule(_INDEXED, 2),
    aten.index_add_: _rule(_INDEXED, 2),
    aten.index_copy: _rule(_INDEXED, 2),
    aten.index_fill: _rule(_INDEXED, 2),
    aten.index_reduce: _rule(_INDEXED, 2),
    aten.index: _advanced_indexing,
    aten._unsafe_index: _advanced_indexing,
    aten.index_put: _advanced_indexing,
    aten.index_put_: _advanced_indexing,
    aten._unsafe_index_put: _advanced_indexing,
    aten._index_put_impl_: _advanced_indexing,
    aten.linalg_lu_solve: _pivots(1),
    aten.lu_unpack: _pivots(1),
    aten.linalg_ldl_solve: _pivots(1),
    aten.take: _rule(_numel(0), 1),
    aten.put: _rule(_numel(0), 1),
    aten.nll_loss_forward: _rule(_classes(0), 1),
    aten.nll_loss_backward: _rule(_classes(1), 2),
    aten.nll_loss2d_forward: _rule(_classes(0), 1),
    aten.nll_loss2d_backward: _rule(_classes(1), 2),
    aten.multi_margin_loss: _rule(_classes(0), 1),
    aten.multi_margin_loss_backward: _rule(_classes(1), 2),
    aten.max_pool2d_with_indices_backward: _rule(_plane(1, 2), 7),
    aten.max_pool3d_with_indices_backward: _rule(_plane(1, 3), 7),
    aten.adaptive_max_pool2d_backward: _rule(_plane(1, 2), 2),
    aten.adaptive_max_pool3d_backward: _rule(_plane(1, 3), 2),
    aten.fractional_max_pool2d_backward: _rule(_plane(1, 2), 4),
    aten.value_selecting_reduction_backward: _rule(lambda call: _argument(call, 3)[_argument(call, 1)], 2),
    aten.max_unpool2d: _rule(lambda call: _argument(call, 2)[-1] * _argument(call, 2)[-2], 1),
}
