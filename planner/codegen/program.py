"""TODO: ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

Code = Callable[[list[Any]], tuple[tuple[Any, ...], tuple[Any, ...]]]


@dataclass(frozen=True)
class Segment:
    """A piece of the backward.

    Attributes:
        module: its graph.
        run: takes a list of values (and empties it), returns (gradients, values for the store).
        reads: places in the store that the list is filled from.
        clears: those of them that no later segment reads.
        writes: places in the store for the values returned.
        gradients: which of the joint graph's gradients it returns, in whole or in part.
    """

    module: fx.GraphModule
    run: Code
    reads: tuple[int, ...]
    clears: tuple[int, ...]
    writes: tuple[int, ...]
    gradients: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A schedule, ready to run on any model of the captured form.

    Attributes:
        forward: graph of the forward; its ``forward`` takes the list [parameters, buffers, inputs] and empties it.
        run_forward: that function.
        writes: places in the store for the second value that it returns.
        store_size: number of places in the store.
        tangents: place in the store of each incoming gradient, None where nothing reads it.
        outputs: for each output leaf its position among the tensors that the forward returns; None: not computed by the
            forward.
        segments: the backward, in order.
        unchanged: (place in the store, joint node or output leaf behind it) of what must not change between forward and
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
