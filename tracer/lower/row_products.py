"""The backward between two linear layers a few rows at a time, so that gradients of what lies between are never there whole.

A layer's backward multiplies the gradient of its results with its weight, operators that treat each row by itself follow, and
the layer before multiplies with its own. All of that can be done for some rows after the others: the gradients of inputs are
rows again, and those of weights and biases are sums over the rows, made part by part, which rounds otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

import torch

from remat_planner.tracer.joint import operator_name
from remat_planner.tracer.lower.rows import Row, rows_in_chunks
from remat_planner.tracer.lower.write_over import PREVIOUS, out_form, written_over
from remat_planner.tracer.operators import OpCall, OperatorFacts, Roofline, graph_function, with_facts

_aten = torch.ops.aten
_PRODUCT = _aten.mm.default


class Whole(NamedTuple):
    """Stands for a tensor that all rows read, as a weight; ``turned`` with its two dimensions exchanged."""

    at: int
    turned: bool = False


@dataclass(frozen=True)
class RowAction:
    """What is done with some rows.

    Attributes:
        kind: "step" makes a new value of each row by ``target``. The others make results: "rows" multiplies a value with a
            weight, or adds two values; "product" adds up the products of two values over the rows, "sum" a value's rows.
        args: with ``Row`` and ``Whole`` in the place of tensors; values are numbered from the inputs on.
        dtype: of what it makes.
    """

    kind: Literal["step", "rows", "product", "sum"]
    target: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    dtype: torch.dtype

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
    def results(self) -> tuple[RowAction, ...]:
        """The actions whose results it returns, in order."""
        return tuple(action for action in self.actions if action.kind != "step")

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The number of the value that each action makes; -1 where that is a result."""
        made = iter(range(len(self.inputs), len(self.inputs) + len(self.actions)))
        return tuple(next(made) if action.kind == "step" else -1 for action in self.actions)

    @cached_property
    def last_read(self) -> dict[int, int]:
        """For each value that is read, the action that reads it last."""
        return {at: k for k, action in enumerate(self.actions) for at in action.rows}

    @cached_property
    def in_place(self) -> dict[int, int]:
        """For each action that can write over a value which nothing reads later, that value; inputs are never written over."""
        return {k: at for k in range(len(self.actions)) if (at := self._overwritten(k)) is not None}

    def _overwritten(self, k: int) -> int | None:
        action = self.actions[k]
        if action.kind != "step" or action.target is _PRODUCT or written_over(action.target) is None:
            return None
        for place, argument in enumerate(action.args):
            if not isinstance(argument, Row) or argument.at < len(self.inputs) or self.last_read[argument.at] != k:
                continue
            fits = self.actions[self.numbers.index(argument.at)].dtype == action.dtype and action.args.count(argument) == 1
            if fits and (place == 0 or out_form(action.target) is not None):
                return argument.at
        return None

    def widths(self, call: OpCall) -> list[int]:
        """For each action, the numbers in a row of what it makes or, where that is a sum, of what it reads."""
        inputs, wholes, _ = call.args
        width = {k: int(spec.shape[-1]) for k, spec in enumerate(inputs)}
        found = []
        for number, action in zip(self.numbers, self.actions, strict=True):
            if action.target is _PRODUCT and action.kind in ("step", "rows"):
                weight = action.args[1]
                wide = int(wholes[weight.at].shape[0 if weight.turned else 1])
            else:
                wide = max(width[at] for at in action.rows)
            width[number] = wide
            found.append(wide)
        return found

    def workspace(self, call: OpCall) -> int:
        """Bytes of the values at their peak, for the largest chunk."""
        rows = max((part.stop - part.start for part in _chunks(call)), default=0)
        live: dict[int, int] = {}
        highest = 0
        for k, (number, action, wide) in enumerate(zip(self.numbers, self.actions, self.widths(call), strict=True)):
            if k in self.in_place:
                del live[self.in_place[k]]
            if action.kind == "step":
                live[number] = wide * action.dtype.itemsize
            highest = max(highest, sum(live.values()))
            live = {at: size for at, size in live.items() if self.last_read.get(at, -1) > k}
        return rows * highest

    def kernels(self, call: OpCall) -> Iterator[tuple[int, int]]:
        """FLOPs and bytes moved of each kernel."""
        inputs, _, _ = call.args
        wide = self.widths(call)
        width = {k: int(spec.shape[-1]) for k, spec in enumerate(inputs)} | dict(zip(self.numbers, wide, strict=True))
        for part in _chunks(call):
            rows = part.stop - part.start
            for action, made in zip(self.actions, wide, strict=True):
                size = action.dtype.itemsize
                read = sum(rows * width[at] for at in action.rows)
                if action.kind == "sum":
                    yield 0, size * read
                elif action.kind == "product":
                    one, other = (width[at] for at in action.rows)
                    yield 2 * rows * one * other, size * (read + (2 if part.start else 1) * one * other)
                elif action.target is _PRODUCT:
                    yield 2 * rows * width[action.rows[0]] * made, size * (read + rows * made + width[action.rows[0]] * made)
                else:
                    yield 0, size * (read + rows * made)


@cache
def in_row_chunks(program: RowProgram) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A function of the tensors whose rows are read, of those that all rows read, and of the number of chunks.

    It returns the results of ``program`` in order.
    """

    @with_facts(
        OperatorFacts(
            flops=lambda call: sum(flops for flops, _ in program.kernels(call)),
            roofline=Roofline(kernels=lambda call: tuple(program.kernels(call)), workspace=program.workspace),
        )
    )
    @graph_function(f"tracer.in_row_chunks({program})")
    def run(inputs: Sequence[torch.Tensor], wholes: Sequence[torch.Tensor], chunks: int) -> tuple[torch.Tensor, ...]:
        flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in inputs]
        rows = flat[0].shape[0]
        results: list[torch.Tensor | None] = [None] * len(program.results)
        for part in rows_in_chunks(rows, chunks):
            values = {k: tensor[part] for k, tensor in enumerate(flat)}
            result = -1
            for k, (number, action) in enumerate(zip(program.numbers, program.actions, strict=True)):
                if action.kind == "step":
                    values[number] = _made(action, values, wholes, program.in_place.get(k))
                else:
                    result += 1
                    results[result] = _added(action, values, wholes, results[result], rows, part)
                for at in [at for at in values if program.last_read.get(at, -1) <= k]:
                    del values[at]
        return tuple(tensor for tensor in results if tensor is not None)

    run.__name__ = run.__qualname__ = "in_row_chunks"
    return run


def _made(action: RowAction, values: dict[int, torch.Tensor], wholes: Sequence[torch.Tensor], over: int | None) -> torch.Tensor:
    step = None if over is None else written_over(action.target)
    if step is not None and over is not None:
        args = [PREVIOUS if a == Row(over) else _argument(a, values, wholes) for a in action.args]
        return step(values[over], args, dict(action.kwargs))
    made: torch.Tensor = action.target(*(_argument(a, values, wholes) for a in action.args), **dict(action.kwargs))
    return made


def _added(
    action: RowAction,
    values: dict[int, torch.Tensor],
    wholes: Sequence[torch.Tensor],
    result: torch.Tensor | None,
    rows: int,
    part: slice,
) -> torch.Tensor:
    """The ``result`` with what these rows give."""
    one, *other = (_argument(a, values, wholes) for a in action.args)
    if action.kind == "rows":
        result = one.new_empty((rows, other[0].shape[1])) if result is None else result
        (_aten.mm if action.target is _PRODUCT else _aten.add).out(one, other[0], out=result[part])
        return result
    if action.kind == "sum":
        sums: torch.Tensor = _aten.sum.dim_IntList(one, [0], True)
        return sums if result is None else result.add_(sums)
    factors = (one.t(), other[0])
    added: torch.Tensor = _aten.mm.default(*factors) if result is None else _aten.addmm_.default(result, *factors)
    return added


def _argument(argument: Any, values: dict[int, torch.Tensor], wholes: Sequence[torch.Tensor]) -> Any:
    if isinstance(argument, Row):
        return values[argument.at]
    if isinstance(argument, Whole):
        return wholes[argument.at].t() if argument.turned else wholes[argument.at]
    return argument


def _chunks(call: OpCall) -> Iterator[slice]:
    inputs, _, chunks = call.args
    return rows_in_chunks(math.prod(inputs[0].shape[:-1]), chunks)
