"""Real arguments for one operator call: its shapes, strides, dtypes and aliasing, and values that the operator accepts.

Values matter twice. An index out of range fails; indices that are all alike, denormal numbers and NaN run at other speeds than
a training step's. The records in ``tracer.operators`` say which values an operator needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.operators import OpCall, TensorSpec, Values, facts_of
from remat_planner.tracer.torch_private import negated

_DRAWN = 1 << 20
"""Elements drawn at random; longer storages repeat them."""
_SHIFTS = 61
"""At how many places a storage may begin among the drawn elements."""


class SampleArguments:
    """Makes the arguments of one call after another and never holds more memory than one call needs.

    A storage goes on to the next call where that can use it: neighbours in a graph often take tensors of one size, and touching
    new pages takes longer than the operators themselves.
    """

    def __init__(self) -> None:
        self._storages_at_hand: dict[_Content, list[torch.UntypedStorage]] = {}
        self._drawn = _DrawnValues()

    def make(self, call: OpCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Tensors for every tensor argument of ``call``, as positional and named arguments; drop them before the next call.

        Floating point values are uniform in [0.25, 0.75), within the domain of every common operator (logarithms, roots,
        probabilities, variances). For matrix products, convolutions and attention they are normal, since the speed of these on
        a GPU depends on how many bits change. Draws from the global random generators.
        """
        storages = self._storages(_contents(call))

        def real(leaf: Any) -> Any:
            if not isinstance(leaf, TensorSpec):
                return leaf
            tensor = torch.empty(0, dtype=leaf.dtype, device=call.storages[leaf.storage].device)
            tensor.set_(storages[leaf.storage], leaf.offset, leaf.shape, leaf.stride)
            tensor = tensor.conj() if leaf.conjugated else tensor
            return negated(tensor) if leaf.negated else tensor

        args, kwargs = pytree.tree_map(real, (call.args, call.kwargs))
        if call.writes:
            self._storages_at_hand.clear()
        return args, kwargs

    def _storages(self, contents: list[_Content]) -> list[torch.UntypedStorage]:
        at_hand = self._storages_at_hand
        reused = [at_hand[content].pop() if at_hand.get(content) else None for content in contents]
        at_hand.clear()  # frees what this call cannot use before anything is allocated
        storages = [
            content.make(self._drawn) if storage is None else storage for content, storage in zip(contents, reused, strict=True)
        ]
        for content, storage in zip(contents, storages, strict=True):
            at_hand.setdefault(content, []).append(storage)
        return storages


@dataclass(frozen=True, slots=True)
class _Content:
    """A storage's size and values; where ``values`` is None, integers are small and positive, as divisors must be."""

    bytes: int
    device: torch.device
    dtype: torch.dtype
    values: Values | None
    normal: bool

    def make(self, drawn: _DrawnValues) -> torch.UntypedStorage:
        """A storage with this content."""
        flat = torch.empty(-(-self.bytes // self.dtype.itemsize), dtype=self.dtype, device=self.device)
        if callable(self.values):
            self.values(flat)
        else:
            drawn.fill(flat, self.values, normal=self.normal)
        return flat.untyped_storage()


def _contents(call: OpCall) -> list[_Content]:
    """The content of each storage of ``call``, according to the first argument that views it."""
    values = _values(call)
    # An integer that an operator might use as an index must be a valid one, as many kernels do not check: 0 always is.
    elementwise = torch.Tag.pointwise in getattr(call.target, "tags", ()) or "divide" in str(call.target)
    otherwise = None if elementwise else 1
    first: dict[int, TensorSpec] = {}
    for tensor in call.tensors:
        first.setdefault(tensor.storage, tensor)
    return [
        _Content(storage.bytes, storage.device, first[i].dtype, values.get(first[i], otherwise), _is_product(call.target))
        for i, storage in enumerate(call.storages)
    ]


def _values(call: OpCall) -> Mapping[TensorSpec, Values]:
    """The values that the operator's record asks for; arguments that are no tensors (an optional one left out) drop out."""
    rule = facts_of(call.target).sample_inputs
    if rule is None:
        return {}
    by_argument = {call.argument(key) if isinstance(key, str) else key: values for key, values in rule(call).items()}
    return {key: values for key, values in by_argument.items() if isinstance(key, TensorSpec)}


def _is_product(target: Callable[..., Any]) -> bool:
    name = str(target)
    return any(part in name for part in ("mm", "conv", "attention", "linear", "matmul"))


class _DrawnValues:
    """Random values, drawn once for each kind: copying them is far faster."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[torch.dtype, torch.device, int | None, bool], torch.Tensor] = {}
        self._filled = 0

    def fill(self, flat: torch.Tensor, limit: int | None, *, normal: bool) -> None:
        """Fill a one-dimensional tensor; integers from ``[0, limit)``, or from ``[1, 8)`` where nothing limits them."""
        size = flat.numel()
        filled = min(size, _DRAWN)
        kind = (flat.dtype, flat.device, limit, normal)
        block = self._blocks.get(kind)
        if block is None or len(block) < filled + _SHIFTS:
            block = torch.empty(filled + _SHIFTS, dtype=flat.dtype, device=flat.device)
            _draw(block, limit, normal=normal)
            self._blocks[kind] = block
        shift = self._filled % _SHIFTS  # so that two arguments of a call are not the same numbers
        self._filled += 1
        flat[:filled].copy_(block[shift : shift + filled])
        while filled < size:
            more = min(filled, size - filled)
            flat[filled : filled + more].copy_(flat[:more])
            filled += more


def _draw(block: torch.Tensor, limit: int | None, *, normal: bool) -> None:
    if block.dtype == torch.bool:
        block.random_(0, 2)
    elif block.dtype.is_floating_point or block.dtype.is_complex:
        _draw_floating(torch.view_as_real(block) if block.dtype.is_complex else block, normal=normal)
    elif limit is None:
        block.random_(1, 8)
    else:
        block.random_(0, max(1, min(limit, torch.iinfo(block.dtype).max)))


def _draw_floating(block: torch.Tensor, *, normal: bool) -> None:
    if block.element_size() == 1:  # PyTorch draws no 8-bit floating point numbers
        block.copy_(torch.empty(block.shape, device=block.device).uniform_(0.25, 0.75))
    elif normal:
        block.normal_()
    else:
        block.uniform_(0.25, 0.75)
