"""Programs that treat each row by itself, so that a few rows at a time can go all the way, and what that takes.

Rows are those of the logits of a loss, or of what lies between two linear layers. Layers multiply rows with a weight, operators
that treat each row by itself follow, and the gradients of inputs are rows again. Those of weights and biases are sums over the
rows, made part by part, which rounds otherwise than eager.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch

from remat_planner.tracer.joint import operator_name
from remat_planner.tracer.lower.write_over import out_form, written_over
from remat_planner.tracer.operators import OpCall, TensorSpec, Values

PRODUCT, PRODUCT_AND_BIAS = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
PRODUCTS = (PRODUCT, PRODUCT_AND_BIAS)

Kind = Literal["step", "loss", "rows", "product", "sum"]


class Row(NamedTuple):
    """Stands among the arguments of an action for the rows of a value: the inputs, then what the actions made."""

    at: int


class Whole(NamedTuple):
    """Stands for a tensor that all rows read, as a weight; ``turned`` with its two dimensions exchanged."""

    at: int
    turned: bool = False


@dataclass(frozen=True)
class RowAction:
    """What is done with some rows.

    Attributes:
        kind: "step" makes a new value of each row by ``target``. The others make results. "rows" multiplies a value with a
            weight, or adds two values; "product" adds up the products of two values over the rows, "sum" a value's rows.
            "loss" adds up a loss over classes of the rows, which are logarithms of probabilities, and makes their gradient, a
            value, for a gradient of 1 that arrives at the loss.
        args: with ``Row`` and ``Whole`` in the place of tensors.
        kwargs: of ``target``. Of a loss: ``mean``, over the rows that count, else it is their sum; ``ignored``, the class of
            rows that do not count; ``cut``, rows at the beginning and at the end of each sequence that have no target.
        dtype: of what it makes.
    """

    kind: Kind
    target: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    dtype: torch.dtype

    @property
    def makes_value(self) -> bool:
        """Whether later actions can read rows that it makes."""
        return self.kind in ("step", "loss")

    @property
    def rows(self) -> tuple[int, ...]:
        """The values that it reads."""
        return tuple(argument.at for argument in self.args if isinstance(argument, Row))

    def __str__(self) -> str:
        shown = [str(tuple(a)) if isinstance(a, (Row, Whole)) else f"={a!r}" for a in self.args]
        return f"{self.kind} {operator_name(self.target)}({', '.join([*shown, *(f'{k}={v!r}' for k, v in self.kwargs)])})"


@dataclass(frozen=True)
class RowProgram:
    """What becomes of each row of ``inputs`` tensors, of these dtypes."""

    inputs: tuple[torch.dtype, ...]
    actions: tuple[RowAction, ...]

    def __str__(self) -> str:
        return f"{len(self.inputs)}: {'; '.join(map(str, self.actions))}"

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The number of the value that each action makes; -1 where that is a result only."""
        made = iter(range(len(self.inputs), len(self.inputs) + len(self.actions)))
        return tuple(next(made) if action.makes_value else -1 for action in self.actions)

    @cached_property
    def dtypes(self) -> Mapping[int, torch.dtype]:
        """The dtype of each value."""
        made = {number: action.dtype for number, action in zip(self.numbers, self.actions, strict=True)}
        return dict(enumerate(self.inputs)) | made

    @cached_property
    def last_read(self) -> Mapping[int, int]:
        """For each value that is read, the action that reads it last."""
        return {at: k for k, action in enumerate(self.actions) for at in action.rows}

    @cached_property
    def in_place(self) -> Mapping[int, int]:
        """For each action that can write over a value which nothing reads later, that value; inputs are never written over."""
        return {k: at for k in range(len(self.actions)) if (at := self._overwritten(k)) is not None}

    def _overwritten(self, k: int) -> int | None:
        action = self.actions[k]
        if action.kind != "step" or written_over(action.target) is None:
            return None
        for place, argument in enumerate(action.args):
            if not isinstance(argument, Row) or argument.at < len(self.inputs) or self.last_read[argument.at] != k:
                continue
            fits = self.dtypes[argument.at] == action.dtype and action.args.count(argument) == 1
            if fits and (place == 0 or out_form(action.target) is not None):
                return argument.at
        return None

    def widths(self, call: OpCall) -> tuple[dict[int, int], list[int]]:
        """The numbers in a row of each value, and for each action those of what it makes or, where that is a sum, reads."""
        inputs, wholes, _ = call.args
        width = {k: int(spec.shape[-1]) for k, spec in enumerate(inputs)}
        wide = []
        for number, action in zip(self.numbers, self.actions, strict=True):
            if action.target in PRODUCTS and action.kind in ("step", "rows"):
                weight = action.args[-1]
                width[number] = int(wholes[weight.at].shape[0 if weight.turned else 1])
            else:
                width[number] = max(width[at] for at in action.rows)
            wide.append(width[number])
        return width, wide

    def workspace(self, call: OpCall) -> int:
        """Bytes of the values at their peak, for the largest chunk."""
        rows = max(part.stop - part.start for part in _chunks(call))
        live: dict[int, int] = {}
        highest = 0
        for k, (number, action, wide) in enumerate(zip(self.numbers, self.actions, self.widths(call)[1], strict=True)):
            if k in self.in_place:
                del live[self.in_place[k]]
            if action.makes_value:
                live[number] = wide * action.dtype.itemsize
            highest = max(highest, sum(live.values()))
            live = {at: size for at, size in live.items() if self.last_read.get(at, -1) > k}
        return rows * highest

    def kernels(self, call: OpCall) -> Iterator[tuple[int, int]]:
        """FLOPs and bytes moved of each kernel."""
        width, wide = self.widths(call)
        for part in _chunks(call):
            rows = part.stop - part.start
            for action, made in zip(self.actions, wide, strict=True):
                size = action.dtype.itemsize
                read = sum(rows * width[at] * self.dtypes[at].itemsize for at in action.rows)
                if action.kind == "sum":
                    yield 0, read
                elif action.kind == "loss":  # reads one number of each row
                    yield 0, size * rows * made
                elif action.kind == "product":
                    one, other = (width[at] for at in action.rows)
                    yield 2 * rows * one * other, read + size * (2 if part.start else 1) * one * other
                elif action.target in PRODUCTS:
                    inner = width[action.rows[0]]
                    yield 2 * rows * inner * made, read + size * (rows * made + inner * made)
                else:
                    yield 0, read + size * rows * made

    def sample_inputs(self, call: OpCall) -> dict[str | TensorSpec, Values]:
        """Targets of a loss are classes."""
        _, wholes, _ = call.args
        width, _ = self.widths(call)
        losses = (action.args for action in self.actions if action.kind == "loss")
        return {wholes[targets.at]: width[row.at] for row, targets in losses}


def rows_in_chunks(rows: int, chunks: int) -> Iterator[slice]:
    """``rows`` in at most so many chunks of equal size; the last may be smaller. No rows are one chunk of none."""
    size = max(1, -(-rows // chunks))
    return (slice(begin, min(begin + size, rows)) for begin in range(0, max(rows, 1), size))


def _chunks(call: OpCall) -> Iterator[slice]:
    inputs, _, chunks = call.args
    return rows_in_chunks(math.prod(inputs[0].shape[:-1]), chunks)
