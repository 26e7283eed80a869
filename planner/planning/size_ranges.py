"""The argument ``shapes`` of ``plan`` as a text: ranges of sizes, ``"batch=1..8, tokens=128..4096"``.

A range is of all dimensions of the inputs that have its largest size. So the inputs that are given are the largest ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.planner.errors import ShapesError
from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning.input_forms import InputForm
from remat_planner.planner.planning.signatures import input_signature
from remat_planner.schedules import Origin, Schedule, SizeRange
from remat_planner.tracer.torch_private import is_fake

_ONE = re.compile(r"\s*(?P<name>\w+)\s*(@\s*(?P<dim>\d+)\s*)?=\s*(?P<least>\d+)\s*\.\.\s*(?P<largest>\d+)\s*")
_EXPECTED = 'ranges are written as in shapes="batch=1..8, tokens=128..4096"'


def size_ranges(text: str, form: InputForm) -> tuple[SizeRange, ...]:
    """The ranges of ``text`` and the dimensions of the inputs that they are of, in the order of these.

    Args:
        text: ``"batch=1..8, tokens=128..4096"``; ``"tokens@1=128..768"`` is of dimensions 1 alone that are 768 long.
        form: inputs of the largest sizes.

    Raises:
        ShapesError: it is no such text, no dimension has the largest size of a range, or two ranges have one dimension.
    """
    tensors = _tensors(form)
    shapes = format_inputs(input_signature(form.args, form.kwargs))
    ranges: list[SizeRange] = []
    for part in text.split(","):
        match = _ONE.fullmatch(part)
        if match is None:
            raise ShapesError(f"{part.strip()!r} is no range of sizes: {_EXPECTED}", number=None)
        name, least, largest = match["name"], int(match["least"]), int(match["largest"])
        if not 1 <= least < largest:
            raise ShapesError(f"{part.strip()} goes from no size of at least 1 to a larger one: {_EXPECTED}", number=None)
        dims = tuple(
            (index, dim)
            for index, tensor in enumerate(tensors)
            for dim, size in enumerate(tensor.shape)
            if size == largest and match["dim"] in (None, str(dim))
        )
        if not dims:
            raise ShapesError(
                f"no dimension of the inputs ({shapes}) is {largest} long, so {name} may be any of them: give inputs of the "
                "largest sizes beside the ranges",
                number=None,
            )
        for other in ranges:
            if other.name == name:
                raise ShapesError(f"{name} has two ranges: give it one", number=None)
            if shared := sorted({*dims} & {*other.dims}):
                raise ShapesError(
                    f"{other.name} and {name} are both {largest} at their largest, so dimension {shared[0][1]} of tensor "
                    f"{shared[0][0]} of the inputs ({shapes}) may be either: name the dimension, as in {name}@1={least}.."
                    f"{largest}, or give inputs of another largest size",
                    number=None,
                )
        ranges.append(SizeRange(name, least, largest, largest, dims))
    return tuple(sorted(ranges, key=lambda of: of.dims))


def form_at(form: InputForm, ranges: Sequence[SizeRange], sizes: Sequence[int]) -> InputForm:
    """Rows, tokens, ... of the inputs of ``form``: inputs with these sizes, which are no larger than its own.

    They are chosen evenly, so that what the forward reads from the values (whether there is any padding) tends to stay.
    """
    leaves, spec = pytree.tree_flatten((form.args, form.kwargs))
    places = [k for k, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    with torch.no_grad():
        for of, size in zip(ranges, sizes, strict=True):
            for index, dim in of.dims:
                leaf = leaves[places[index]]
                if size < leaf.shape[dim]:
                    chosen = torch.linspace(0, leaf.shape[dim] - 1, size, device=leaf.device).round().long()
                    leaves[places[index]] = leaf.index_select(dim, chosen).requires_grad_(leaf.requires_grad)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return InputForm(args, kwargs)


def form_in_ranges(schedule: Schedule, call: Origin, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Schedule | None:
    """The schedule among those of ``schedule`` that a call runs by whose sizes lie in its ranges; None if they do in none."""
    found = [of for of in schedule.forms if of.origin.ranges and _is_in_ranges(of.origin, call, InputForm(args, dict(kwargs)))]
    return min(found, key=lambda of: (of.overhead, prod(one.planned for one in of.origin.ranges)), default=None)


def _is_in_ranges(planned: Origin, call: Origin, form: InputForm) -> bool:
    if (planned.modes, planned.autocast) != (call.modes, call.autocast):
        return False
    tensors = _tensors(form)
    shapes = [list(tensor.shape) for tensor in tensors]
    for of in planned.ranges:
        if any(index >= len(tensors) or dim >= tensors[index].dim() for index, dim in of.dims):
            return False
        sizes = {shapes[index][dim] for index, dim in of.dims}
        if len(sizes) != 1 or not of.least <= min(sizes) <= of.planned:
            return False
        for index, dim in of.dims:
            shapes[index][dim] = of.planned
    of_shape = iter(zip(tensors, shapes, strict=True))

    def planned_size(_: torch.Tensor) -> torch.Tensor:
        tensor, shape = next(of_shape)
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    args, kwargs = pytree.tree_map_only(torch.Tensor, planned_size, (form.args, form.kwargs))
    return input_signature(args, kwargs) == planned.inputs


def at_sizes(ranges: Sequence[SizeRange], sizes: Sequence[int]) -> tuple[SizeRange, ...]:
    """``ranges`` of a schedule that is planned for these sizes of them."""
    return tuple(replace(of, planned=size) for of, size in zip(ranges, sizes, strict=True))


def _tensors(form: InputForm) -> list[torch.Tensor]:
    """The tensors among the inputs.

    Raises:
        ShapesError: they have no memory.
    """
    tensors = [leaf for leaf in pytree.tree_leaves((form.args, form.kwargs)) if isinstance(leaf, torch.Tensor)]
    if any(map(is_fake, tensors)):
        raise ShapesError(
            "the inputs are on paper, and a range of sizes is planned with real ones: build the model on its device, or give "
            "the sizes one by one, shapes=[...]",
            number=None,
        )
    return tensors
