"""What code generation produces: the forward and the segments of the backward, as functions on a store of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from remat_planner.planner.codegen.dataflow import Sharing
from remat_planner.planner.codegen.handovers import Handover
from remat_planner.tracer.joint import Tangents
from remat_planner.tracer.torch_private import without_modes

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
        gradients: indices, in the joint graph's gradients, of those that it returns in whole or in part; None in their place
            where they do not arrive.
        unchanged: indices in ``Program.unchanged`` of the caller's tensors that it reads.
    """

    module: fx.GraphModule
    run: Code
    reads: tuple[int, ...]
    clears: tuple[int, ...]
    writes: tuple[int, ...]
    gradients: tuple[int, ...]
    unchanged: tuple[int, ...]


@dataclass(frozen=True)
class Backward:
    """A backward without the tangents that do not arrive.

    Attributes:
        segments: in order.
        store_size: number of places in the store.
        unread: places that the forward has filled and no segment reads.
        unchanged: indices in ``Program.unchanged`` of the caller's tensors that it reads.
    """

    segments: tuple[Segment, ...]
    store_size: int
    unread: tuple[int, ...]
    unchanged: tuple[int, ...]


class Backwards:
    """The backwards of a program, by the tangents that do not arrive. Each is emitted when it is first needed."""

    def __init__(self, whole: Backward, emit: Callable[[Tangents], Backward]) -> None:
        self.whole = whole
        self._emit = emit
        self._known: dict[Tangents, Backward] = {frozenset(): whole}

    def without(self, missing: Tangents) -> Backward:
        """The backward without the tangents ``missing``.

        Raises:
            UndecidedError: it is not known what eager does.
        """
        if missing not in self._known:
            with without_modes():  # this may be in the middle of the caller's backward, and of the caller's modes
                self._known[missing] = self._emit(missing)
        return self._known[missing]

    def changed(self, change: Callable[[Backward], Backward]) -> Backwards:
        """The same, each with ``change``."""
        return Backwards(change(self.whole), lambda missing: change(self.without(missing)))


@dataclass(frozen=True)
class Program:
    """A schedule as code that runs on any model with the captured step.

    Attributes:
        forward: graph of the forward; its ``forward`` takes the list [parameters, buffers, inputs] and empties it. Where the
            schedule copies to pools, ``transfers.StepPools`` are the last entry.
        run_forward: this function, or a compiled one in its place.
        writes: places in the store for the values that the forward stores.
        tangents: place of each incoming gradient, None where no segment reads it.
        outputs: for each output leaf its position among the tensors that the forward returns; None where the forward does not
            compute it.
        backwards: the whole backward, and those without some of the tangents.
        handovers: how gradients go to autograd, in order.
        sharing: which of the tensors that the forward returns lie in one storage.
        unchanged: (place, joint node or output leaf) of each of the caller's tensors that must not change between forward and
            backward.
    """

    forward: fx.GraphModule
    run_forward: Code
    writes: tuple[int, ...]
    tangents: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    backwards: Backwards
    handovers: tuple[Handover, ...]
    sharing: tuple[Sharing, ...]
    unchanged: tuple[tuple[int, fx.Node | int], ...]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The whole backward."""
        return self.backwards.whole.segments
