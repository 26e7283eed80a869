"""Capturing a step with symbols for some sizes of its inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.capture import capture
from remat_planner.tracer.joint import has_parts
from remat_planner.tracer.python_state import attributes_at, sizes_seen_as_numbers
from remat_planner.tracer.record import user_line
from remat_planner.tracer.sizes.errors import NotSizedError
from remat_planner.tracer.sizes.sized_joint import SizedJoint
from remat_planner.tracer.torch_private import is_fake, storage_key
from remat_planner.tracer.torch_sizes import SymbolicSizes, sizes_as_numbers


def capture_sized(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    dims: Sequence[tuple[int, int]],
    symbols: Sequence[int] | None = None,
    bounds: Sequence[tuple[int, int]] | None = None,
    numbers: Sequence[int] = (),
    attributes: Sequence[tuple[str, str]] = (),
    loss: Callable[..., torch.Tensor] | None = None,
) -> SizedJoint:
    """Capture ``model(*args, **kwargs)`` as ``capture`` does, for other sizes too.

    Args:
        model: as for ``capture``.
        args: as for ``capture``.
        kwargs: as for ``capture``.
        dims: index among the tensor inputs, and dimension, of each size that may be another one.
        symbols: for each of ``dims`` which symbol it is; those that are one symbol are always equal. By default each is one by
            itself.
        numbers: index among the inputs of each number that may be another one.
        attributes: path of the module or object, and name, of each attribute that is such a number.
        bounds: the least and the largest size of each symbol; by default 2 and any. The step holds for no others.
        loss: as for ``capture``.

    Raises:
        NotSizedError: the step has to be captured for each size.
        CaptureError: as ``capture``.
    """
    if has_parts(args, kwargs):
        raise NotSizedError("an input is sparse or jagged")
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    symbolic: dict[int, list[int]] = {}
    for index, dim in dims:
        symbolic.setdefault(index, []).append(dim)
    _refuse_forms(tensors, symbolic)
    in_order = [(index, dim) for index, of_input in symbolic.items() for dim in of_input]
    symbol_of = dict(zip(dims, range(len(dims)) if symbols is None else symbols, strict=True))
    sizes = SymbolicSizes(
        [(tensors[index], of_input) for index, of_input in symbolic.items()],
        [symbol_of[place] for place in in_order],
        bounds,
        where=lambda: user_line(sys._getframe(1)),
        numbers=[*(leaves[k] for k in numbers), *(attributes_at(model, path)[name] for path, name in attributes)],
    )
    for k, number in zip(numbers, sizes.numbers, strict=False):
        leaves[k] = number
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    given = dict(zip(attributes, sizes.numbers[len(numbers) :], strict=True))
    with sizes_as_numbers(), sizes_seen_as_numbers(), _with_attributes(model, given):
        joint = capture(model, args, kwargs, loss=loss, mode=sizes.mode, once=True)
        states = tuple(None if k in numbers else state for k, state in enumerate(joint.argument_states))
        if any(name in joint.reads.written.get(path, ()) for path, name in attributes):
            raise NotSizedError("the forward sets a number that changes between steps, too")
        joint = replace(joint, argument_states=states, attributes=given, reads=joint.reads.without(attributes))
        return SizedJoint.of(joint, sizes, in_order, numbers)


@contextmanager
def _with_attributes(model: nn.Module, given: Mapping[tuple[str, str], Any]) -> Iterator[None]:
    """Give modules these attributes, each by the path of its module and its name."""
    places = [(attributes_at(model, path), name) for path, name in given]
    before = [attributes[name] for attributes, name in places]
    try:
        for (attributes, name), value in zip(places, given.values(), strict=True):
            attributes[name] = value
        yield
    finally:
        for (attributes, name), value in zip(places, before, strict=True):
            attributes[name] = value


def _refuse_forms(tensors: Sequence[torch.Tensor], symbolic: Mapping[int, Sequence[int]]) -> None:
    if any(map(is_fake, tensors)):
        raise NotSizedError("inputs are fake")
    memory = [storage_key(tensor) for tensor in tensors]
    for index, dims in symbolic.items():
        tensor = tensors[index]
        if type(tensor) is not torch.Tensor or not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.nbytes:
            raise NotSizedError("an input is no contiguous tensor with memory of its own")
        if memory.count(memory[index]) > 1:
            raise NotSizedError("two inputs share memory")
        if any(tensor.shape[dim] < 2 for dim in dims):
            raise NotSizedError("a size is 0 or 1, for which operators broadcast")
