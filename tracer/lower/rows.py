"""The rows of logits from a linear layer to the gradients of its inputs, a few at a time, so that all logits are never there.

A loss over classes treats each row of the logits by itself. So a part of the rows can go all the way: its logits, its share of
the loss, the gradient of its logits, and from that the gradients of the layer's inputs and its addition to those of weight and
bias. The operators are eager's, on fewer rows; the sums over the rows are made part by part, which rounds otherwise.

The loss sends one number back, which is not known while the forward runs. The gradients here are those for 1; the backward
multiplies them by the number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch

from remat_planner.tracer.joint import operator_name
from remat_planner.tracer.lower.write_over import PREVIOUS, Step, out_form, written_over
from remat_planner.tracer.operators import OpCall, OperatorFacts, Roofline, TensorSpec, Values, graph_function, with_facts

_aten = torch.ops.aten
_SUM = 2
"""The reduction of ``nll_loss`` that adds up."""


class Row(NamedTuple):
    """Stands among the arguments of a ``RowStep`` for an earlier value: 0 is the logits, k what step k returned."""

    at: int


@dataclass(frozen=True)
class RowStep:
    """An operator that treats each row by itself.

    Attributes:
        target: the operator.
        args, kwargs: its arguments, with a ``Row`` in the place of each tensor.
        dtype: of what it returns.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        shown = [f"{a.at}" if isinstance(a, Row) else f"={a!r}" for a in self.args]
        return f"{operator_name(self.target)}({', '.join([*shown, *(f'{name}={value!r}' for name, value in self.kwargs)])})"


@dataclass(frozen=True)
class Recipe:
    """What becomes of each row.

    Attributes:
        logits: dtype of the logits.
        steps: from the logits to the gradient of the logits. Step ``loss`` stands for the loss's own backward.
        given: the logits are there already, and stay.
        loss: number of the step whose row is the gradient that the loss sends to the logarithms of probabilities, which step
            ``loss - 1`` returned.
        mean: the loss is the mean over the rows that count; else the sum.
        ignored: the class of rows that do not count.
        cut: rows at the beginning and at the end of each sequence that have no target.
        of_hidden, of_weight, of_bias: which gradients there are.
        turned: the gradient of the weight is laid out as the layer's weight, inputs by classes, else classes by inputs.
    """

    logits: torch.dtype
    given: bool
    steps: tuple[RowStep, ...]
    loss: int
    mean: bool
    ignored: int
    cut: tuple[int, int]
    of_hidden: bool
    of_weight: bool
    of_bias: bool
    turned: bool

    def __str__(self) -> str:
        what = [name for name in ("given", "mean", "of_hidden", "of_weight", "of_bias", "turned") if getattr(self, name)]
        return f"{self.logits}: {'; '.join(map(str, self.steps))}; {', '.join(what)}, {self.ignored}, {self.cut}"

    @cached_property
    def last_read(self) -> dict[int, int]:
        """For each value, the number of the step that reads it last; the last value is read after all steps."""
        reads = {k: k for k in range(len(self.steps) + 1)}
        for k, step in enumerate(self.steps, 1):
            reads |= {a.at: k for a in step.args if isinstance(a, Row)}
        return reads | {self.loss - 1: max(reads[self.loss - 1], self.loss), len(self.steps): len(self.steps) + 1}

    @cached_property
    def in_place(self) -> dict[int, int]:
        """For each step that can write over a value which nothing reads later, that value."""
        return {k: at for k in range(1, len(self.steps) + 1) if (at := self._overwritten(k)) is not None}

    def _overwritten(self, k: int) -> int | None:
        step = self.steps[k - 1]
        if k == self.loss or written_over(step.target) is None:
            return None
        for place, argument in enumerate(step.args):
            if not isinstance(argument, Row) or self.last_read[argument.at] != k or (self.given and argument.at == 0):
                continue
            fits = self._dtype(argument.at) == step.dtype and step.args.count(argument) == 1
            if fits and (place == 0 or out_form(step.target) is not None):
                return argument.at
        return None

    def _dtype(self, at: int) -> torch.dtype:
        return self.steps[at - 1].dtype if at else self.logits

    @property
    def row_bytes(self) -> int:
        """Bytes for each class of a row at the peak of its steps, logits that are given left out."""
        live = {0: 0 if self.given else self.logits.itemsize}
        highest = sum(live.values())
        for k, step in enumerate(self.steps, 1):
            if k in self.in_place:
                del live[self.in_place[k]]
            live[k] = step.dtype.itemsize
            highest = max(highest, sum(live.values()))
            live = {at: size for at, size in live.items() if self.last_read[at] > k}
        return highest

    def kernels(self, rows: int, inner: int, classes: int, *, first: bool) -> Iterator[tuple[int, int]]:
        """FLOPs and bytes moved of the kernels for so many rows, which are the ``first`` ones or later ones."""
        size = self.logits.itemsize
        product = 2 * rows * inner * classes
        logits, hidden, weight = size * rows * classes, size * rows * inner, size * inner * classes
        if not self.given:
            yield product, logits + hidden + weight
        for k, step in enumerate(self.steps, 1):
            read = [] if k == self.loss else [self._dtype(a.at).itemsize for a in step.args if isinstance(a, Row)]
            yield 0, rows * classes * (sum(read) + step.dtype.itemsize)
        if self.of_hidden:
            yield product, logits + hidden + weight
        if self.of_weight:
            yield product, logits + hidden + (1 if first else 2) * weight
        if self.of_bias:
            yield 0, logits


def rows_in_chunks(rows: int, chunks: int) -> Iterator[slice]:
    """``rows`` in at most so many chunks of equal size; the last may be smaller."""
    size = max(1, -(-rows // chunks))
    return (slice(begin, min(begin + size, rows)) for begin in range(0, rows, size))


@cache
def loss_in_chunks(recipe: Recipe) -> Callable[..., tuple[torch.Tensor | None, ...]]:
    """A function of the layer's inputs (rows by inputs), weight (inputs by classes), bias and, where they are there already,
    logits, of the targets and the number of chunks. It returns the loss and, for a gradient of 1 that arrives at it, the
    gradients of inputs, weight and bias; None for those that ``recipe`` does not ask for.
    """
    steps = [_runnable(step, recipe.in_place.get(k)) for k, step in enumerate(recipe.steps, 1)]

    def loss_and_gradient(
        values: dict[int, torch.Tensor], targets: torch.Tensor, share: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the losses of some rows, and the gradient of their logits where each loss has this ``share``."""
        total = count = share
        for k, step in enumerate(steps, 1):
            if k == recipe.loss:
                total, count = _aten.nll_loss_forward.default(values[k - 1], targets, None, _SUM, recipe.ignored)
                values[k] = _aten.nll_loss_backward.default(
                    share.to(total.dtype), values[k - 1], targets, None, _SUM, recipe.ignored, count
                )
            else:
                values[k] = step(values)
            for at in [at for at in values if recipe.last_read[at] <= k]:
                del values[at]
        return total, values[len(steps)]

    @with_facts(
        OperatorFacts(
            flops=lambda call: sum(flops for flops, _ in _kernels(recipe, call)),
            sample_inputs=_sample_inputs,
            roofline=Roofline(
                kernels=lambda call: tuple(_kernels(recipe, call)), workspace=lambda call: _workspace(recipe, call)
            ),
        )
    )
    @graph_function(f"tracer.loss_in_chunks({recipe})")
    def run(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        logits: torch.Tensor | None,
        targets: torch.Tensor,
        chunks: int,
    ) -> tuple[torch.Tensor | None, ...]:
        rows = hidden.shape[0]
        whole = None if logits is None else logits.reshape(rows, -1)
        targets = _with_cut(targets, rows, recipe)
        counted = (targets != recipe.ignored).sum().to(torch.float32)
        share = counted.reciprocal() if recipe.mean else torch.ones_like(counted)
        loss = torch.zeros_like(counted)
        of_hidden = torch.empty_like(hidden) if recipe.of_hidden else None
        of_weight: torch.Tensor | None = None
        of_bias: torch.Tensor | None = None
        dtype = recipe.logits
        for part in rows_in_chunks(rows, chunks):
            x = hidden[part]
            own = {0: _product(x, weight, bias) if whole is None else whole[part]}
            total, gradient = loss_and_gradient(own, targets[part], share)
            own.clear()
            dtype = total.dtype
            loss.add_(total)
            if of_hidden is not None:
                _aten.mm.out(gradient, weight.t(), out=of_hidden[part])
            if recipe.of_weight:
                factors = (x.t(), gradient) if recipe.turned else (gradient.t(), x)
                of_weight = _aten.mm.default(*factors) if of_weight is None else _aten.addmm_.default(of_weight, *factors)
            if recipe.of_bias:
                sums = _aten.sum.dim_IntList(gradient, [0], True)
                of_bias = sums if of_bias is None else of_bias.add_(sums)
            del gradient
        loss = loss / counted if recipe.mean else loss
        return loss.to(dtype), of_hidden, of_weight, of_bias

    run.__name__ = run.__qualname__ = "loss_in_chunks"
    return run


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = _aten.mm.default(x, weight) if bias is None else _aten.addmm.default(bias, x, weight)
    return product


def _with_cut(targets: torch.Tensor, rows: int, recipe: Recipe) -> torch.Tensor:
    """The targets of all rows; those that are cut off do not count."""
    missing = rows - targets.shape[0]
    if not missing:
        return targets
    padded: torch.Tensor = _aten.constant_pad_nd.default(
        targets.reshape(missing // sum(recipe.cut), -1), list(recipe.cut), recipe.ignored
    )
    return padded.reshape(rows)


def _runnable(step: RowStep, over: int | None) -> Callable[[dict[int, torch.Tensor]], torch.Tensor]:
    in_place: Step | None = None if over is None else written_over(step.target)
    kwargs = dict(step.kwargs)

    def run(values: dict[int, torch.Tensor]) -> torch.Tensor:
        if in_place is not None and over is not None:
            args = [PREVIOUS if a == Row(over) else values[a.at] if isinstance(a, Row) else a for a in step.args]
            return in_place(values[over], args, kwargs)
        result: torch.Tensor = step.target(*(values[a.at] if isinstance(a, Row) else a for a in step.args), **kwargs)
        return result

    return run


def _sample_inputs(call: OpCall) -> dict[str | TensorSpec, Values]:
    _, weight, _, _, targets, _ = call.args
    return {targets: weight.shape[1]}


def _kernels(recipe: Recipe, call: OpCall) -> Iterator[tuple[int, int]]:
    hidden, weight, *_, chunks = call.args
    for part in rows_in_chunks(hidden.shape[0], chunks):
        sizes = (part.stop - part.start, *weight.shape)
        yield from recipe.kernels(*sizes, first=not part.start)


def _workspace(recipe: Recipe, call: OpCall) -> int:
    hidden, weight, *_, chunks = call.args
    rows = max((part.stop - part.start for part in rows_in_chunks(hidden.shape[0], chunks)), default=0)
    return rows * int(weight.shape[1]) * recipe.row_bytes
