"""What code generation produces: the forward and the segments of the backward, as functions on a store of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

Code = Callable[[list[Any]], tuple[tuple[Any, ...], tuple[Any, ...]]]
"""Generated code: takes a list of values, which it empties; returns (what leaves, what goes into the store)."""


@dataclass(frozen=True)
class Segment:
    """One segment of the backward.

    Attributes:
        module: its graph.
        run: takes a list of values, which it empties; returns (gradients, values to store).
        reads: places in the store that fill this list.
        clears: those of ``reads`` that no later segment reads.
        writes: places in the store for the values to store.
        gradients: indices, in the joint graph's gradients, of those that it returns in whole or in part.
    """

    module: fx.GraphModule
    run: Code
    reads: tuple[int, ...]
    clears: tuple[int, ...]
    writes: tuple[int, ...]
    gradients: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A schedule as code that runs on any model with the captured step.

    Attributes:
        forward: graph of the forward; its ``forward`` takes the list [parameters, buffers, inputs] and empties it.
        run_forward: this function, or a compiled one in its place.
        writes: places in the store for the values that the forward stores.
        store_size: number of places in the store.
        tangents: place of each incoming gradient, None where no segment reads it.
        outputs: for each output leaf its position among the tensors that the forward returns; None where the forward does not
            compute it.
        segments: the backward, in order.
        unchanged: (place, joint node or output leaf) of each of the caller's tensors that must not change between forward and
            backward.
    """

    forward: fx.GraphModule
    run_forward: Code
    writes: tuple[int, ...]
    store_size: int
    tangents: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    segments: tuple[Segment, ...]
    unchanged: tuple[tuple[int, fx.Node | int], ...]
