"""A step for many sizes of its inputs: captured once with symbols for them, compared with a capture, and costed for some sizes.

PyTorch's symbolic sizes load slowly, so that is put off until a second size comes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.signatures import input_signature, state_signature
from remat_planner.planner.planning.step import Step, costed_step
from remat_planner.schedules import SizeRange
from remat_planner.tracer import InputsDoNotFitError, Joint, capture
from remat_planner.tracer.python_state import attributes_at

if TYPE_CHECKING:
    from remat_planner.tracer.sizes import SizedJoint

Dims = tuple[tuple[int, int], ...]
"""Index among the tensor inputs, and dimension, of each size."""


_OTHER = 1e-3
"""A capture that does not hold for numbers larger by this is for these numbers alone."""
_NEARBY = 8
"""A capture that holds for none of so many sizes around its own is for this one alone."""


class Numbers(NamedTuple):
    """Some numbers: the index of each among the inputs; path and name of each that is an attribute of a module or object."""

    leaves: tuple[int, ...]
    attributes: tuple[tuple[str, str], ...]


_NO_NUMBERS = Numbers((), ())


class OneSizeError(Exception):
    """A step has to be captured for each size of its inputs; the text says why.

    Attributes:
        by_chance: it may be so for these sizes alone, as a length that equals the number of heads.
    """

    def __init__(self, message: str, *, by_chance: bool = False) -> None:
        super().__init__(message)
        self.by_chance = by_chance


@dataclass(frozen=True)
class SizedStep:
    """A training step for many sizes of its inputs.

    Attributes:
        joint: the step.
        settings: what its schedules are planned with.
        args: positional inputs of one call, whose tensors have no memory.
        kwargs: named inputs of it.
        known: sizes for which there is an ordinary capture, which is the same.
        written: the step for these sizes; it has the numbers that are computed from sizes.
    """

    joint: SizedJoint
    settings: Settings
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    known: tuple[float, ...] = ()
    written: Joint | None = None

    @property
    def dims(self) -> Dims:
        """The sizes."""
        return self.joint.dims

    def sizes_of(self, tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
        """The sizes of a call with these tensor inputs."""
        return tuple(tensors[index].shape[dim] for index, dim in self.dims)

    def numbers_of(self, model: nn.Module, leaves: Sequence[Any]) -> tuple[float, ...] | None:
        """The numbers of a call of ``model`` with these inputs that may be any; None where they are no numbers there."""
        if any(k >= len(leaves) for k in self.joint.leaves):
            return None
        attributes = (attributes_at(model, path).get(name) for path, name in self.joint.attributes)
        numbers = (*(leaves[k] for k in self.joint.leaves), *attributes)
        return numbers if all(type(number) is float for number in numbers) else None

    def sizes_for(self, sizes: Mapping[tuple[int, int], int]) -> tuple[int, ...]:
        """The sizes of ``dims`` in their order."""
        return tuple(map(sizes.__getitem__, self.dims))

    def written_for(self, sizes: Sequence[float]) -> Joint:
        """The capture for these sizes."""
        return self.written if self.written is not None and tuple(sizes) == self.known else self.joint.at(sizes)

    def at(self, model: nn.Module, sizes: Sequence[Any]) -> Step:
        """The step for these sizes, costed."""
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        places = [k for k, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        for (index, dim), size in zip(self.dims, sizes, strict=False):
            tensor = leaves[places[index]]
            shape = [size if k == dim else other for k, other in enumerate(tensor.shape)]
            leaves[places[index]] = tensor.new_empty(shape)
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        joint = self.written_for(sizes)
        return costed_step(joint, state_signature(model), input_signature(args, kwargs), self.settings)


def capture_sized_step(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dims: Dims,
    symbols: Sequence[int],
    along: Collection[tuple[int, int]],
    known: Joint,
    settings: Settings,
    bounds: Sequence[tuple[int, int]] | None = None,
    numbers: Numbers = _NO_NUMBERS,
) -> SizedStep:
    """Capture ``model(*args, **kwargs)`` for all sizes of ``dims``.

    Args:
        model: the model.
        args: positional inputs.
        kwargs: named inputs.
        dims: the sizes.
        symbols: for each of them which symbol it is: those that are one symbol are always equal.
        along: those of them that have not differed so far; the step may depend on the exact size there.
        known: a capture of the step for other sizes, with which this one is compared where it is for these sizes too; else with
            a new capture.
        settings: of the step.
        bounds: the least and the largest size of each symbol, for which alone it is captured; by default 2 and any.
        numbers: for whose values it is captured, too.

    Raises:
        OneSizeError: the step has to be captured for each size.
        tracer.CaptureError: without symbols it cannot be captured.
    """
    from remat_planner.tracer.sizes import NotSizedError, capture_sized, is_same_joint

    try:
        joint = capture_sized(
            model,
            args,
            kwargs,
            dims=dims,
            symbols=symbols,
            bounds=bounds,
            numbers=numbers.leaves,
            attributes=numbers.attributes,
            loss=settings.loss,
        )
    except NotSizedError as error:
        raise OneSizeError(str(error)) from error
    except Exception as error:  # where the step itself cannot be captured, the ordinary capture that follows says why
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        # The forward may raise on this batch alone.
        raise OneSizeError(why, by_chance=isinstance(error, InputsDoNotFitError)) from error
    without_memory = pytree.tree_map_only(
        torch.Tensor, lambda t: torch.empty_like(t, device="meta"), (tuple(args), dict(kwargs))
    )
    step = SizedStep(joint, settings, *without_memory)
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    of_dims = step.sizes_of([leaf for leaf in leaves if isinstance(leaf, torch.Tensor)])
    values = step.numbers_of(model, leaves) or ()
    sizes = (*of_dims, *values)
    nearby = [k for k in range(-_NEARBY, _NEARBY + 1) if k]
    differing = [place not in along for place in dims]
    others = ((*(size + k * differs for size, differs in zip(of_dims, differing, strict=True)), *values) for k in nearby)
    if bounds is None and not any(map(joint.holds_nearby, others)):
        raise OneSizeError("it depends on the exact sizes", by_chance=True)
    other = step.sizes_of([node.meta["val"] for node in known.input_nodes])
    # The known sizes may equal others by chance. It is the same step even so, unless that merged what is the same there alone.
    if not values and joint.holds_nearby(other) and is_same_joint(written := joint.at(other), known):
        return replace(step, known=other, written=written)
    if not is_same_joint(written := joint.at(sizes), capture(model, args, kwargs, loss=settings.loss)):
        raise OneSizeError("with symbolic sizes it runs other operators", by_chance=True)
    return replace(step, known=sizes, written=written)


def capture_numbers(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], numbers: Numbers, settings: Settings
) -> SizedStep:
    """Capture ``model(*args, **kwargs)`` for all values of some numbers that it computes with.

    Args:
        model: the model.
        args: positional inputs.
        kwargs: named inputs.
        numbers: these.
        settings: of the step.

    Raises:
        OneSizeError: the step has to be captured for each value.
        tracer.CaptureError: it cannot be captured.
    """
    from remat_planner.tracer.sizes import capture_sized, is_same_joint

    known = capture(model, args, kwargs, loss=settings.loss)
    try:
        joint = capture_sized(
            model, args, kwargs, dims=(), numbers=numbers.leaves, attributes=numbers.attributes, loss=settings.loss
        )
    except Exception as error:  # the ordinary capture could do it
        raise OneSizeError(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: torch.empty_like(t, device="meta"), (tuple(args), dict(kwargs)))
    step = SizedStep(joint, settings, args, kwargs)
    values = step.numbers_of(model, pytree.tree_leaves((args, kwargs)))
    if values is None or not joint.holds([value + _OTHER for value in values]):
        raise OneSizeError("it depends on the exact numbers")
    if not is_same_joint(written := joint.at(values), known):
        raise OneSizeError("with symbolic numbers it runs other operators")
    return replace(step, known=values, written=written)


def capture_ranges(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ranges: Sequence[SizeRange],
    known: Joint,
    settings: Settings,
) -> SizedStep:
    """Capture ``model(*args, **kwargs)`` for all sizes of ``ranges``; ``known`` is a capture for the sizes of this call.

    Raises:
        OneSizeError: the step has to be captured for each size.
        tracer.CaptureError: without symbols it cannot be captured.
    """
    places = sorted((place, symbol) for symbol, of in enumerate(ranges) for place in of.dims)
    dims, symbols = tuple(place for place, _ in places), [symbol for _, symbol in places]
    bounds = [of.bounds for of in ranges]
    return capture_sized_step(model, args, kwargs, dims, symbols, (), known, settings, bounds)
