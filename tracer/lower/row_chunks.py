"""Runs a program on rows, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from remat_planner.tracer.lower.row_program import PRODUCT, Row, RowAction, RowProgram, Whole, rows_in_chunks
from remat_planner.tracer.lower.write_over import PREVIOUS, written_over
from remat_planner.tracer.operators import OperatorFacts, Roofline, graph_function, with_facts

_aten = torch.ops.aten
_SUM = 2
"""The reduction of ``nll_loss`` that adds up."""


@cache
def in_row_chunks(program: RowProgram) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A function of the tensors whose rows are read, of those that all rows read, and of the number of chunks.

    It returns the results of ``program`` in order.
    """

    @with_facts(
        OperatorFacts(
            flops=lambda call: sum(flops for flops, _ in program.kernels(call)),
            sample_inputs=program.sample_inputs,
            roofline=Roofline(kernels=lambda call: tuple(program.kernels(call)), workspace=program.workspace),
        )
    )
    @graph_function(f"tracer.in_row_chunks({program})")
    def run(inputs: Sequence[torch.Tensor], wholes: Sequence[torch.Tensor], chunks: int) -> tuple[torch.Tensor, ...]:
        flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in inputs]
        rows = flat[0].shape[0]
        losses = {k: _RunningLoss(action, wholes, rows) for k, action in enumerate(program.actions) if action.kind == "loss"}
        results: dict[int, torch.Tensor] = {}
        for part in rows_in_chunks(rows, chunks):
            values = {k: tensor[part] for k, tensor in enumerate(flat)}
            for k, (number, action) in enumerate(zip(program.numbers, program.actions, strict=True)):
                if k in losses:
                    values[number] = losses[k].add(values[action.args[0].at], part)
                elif action.kind == "step":
                    values[number] = _made(action, values, wholes, program.in_place.get(k))
                else:
                    results[k] = _added(action, values, wholes, results.get(k), rows, part)
                for at in [at for at in values if program.last_read.get(at, -1) <= k]:
                    del values[at]
        results |= {k: loss.total() for k, loss in losses.items()}
        return tuple(results[k] for k in sorted(results))

    run.__name__ = run.__qualname__ = "in_row_chunks"
    return run


class _RunningLoss:
    """A loss over classes, as far as its rows went."""

    def __init__(self, action: RowAction, wholes: Sequence[torch.Tensor], rows: int) -> None:
        options = dict(action.kwargs)
        self._mean, self._ignored, self._dtype = options["mean"], options["ignored"], action.dtype
        self._targets = wholes[action.args[1].at]
        missing = rows - self._targets.shape[0]
        if missing:  # those that are cut off do not count
            sequences = self._targets.reshape(missing // sum(options["cut"]), -1)
            self._targets = _aten.constant_pad_nd.default(sequences, list(options["cut"]), self._ignored).reshape(rows)
        self._count = (self._targets != self._ignored).sum().to(torch.float32)
        self._share = self._count.reciprocal() if self._mean else torch.ones_like(self._count)
        self._sum = torch.zeros_like(self._count)

    def add(self, log_probabilities: torch.Tensor, part: slice) -> torch.Tensor:
        """Add the losses of these rows; return the gradient of their logarithms of probabilities."""
        targets = self._targets[part]
        total, count = _aten.nll_loss_forward.default(log_probabilities, targets, None, _SUM, self._ignored)
        self._sum.add_(total)
        gradient: torch.Tensor = _aten.nll_loss_backward.default(
            self._share.to(total.dtype), log_probabilities, targets, None, _SUM, self._ignored, count
        )
        return gradient

    def total(self) -> torch.Tensor:
        """The loss of all rows."""
        return (self._sum / self._count if self._mean else self._sum).to(self._dtype)


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
        (_aten.mm if action.target is PRODUCT else _aten.add).out(one, other[0], out=result[part])
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
