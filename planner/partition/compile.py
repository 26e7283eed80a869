"""``remat_planner.compile``: a compiled model whose measured step stays within a budget."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.errors import BudgetError, CompilerError, InfeasibleBudgetError, ShapesError
from remat_planner.planner.formatting import format_bytes_both, format_percent
from remat_planner.planner.measurement import KeptState, Loss, device_of, measure_peak, one_step, state_restored
from remat_planner.planner.partition.backend import BudgetedBackend
from remat_planner.planner.partition.compared_gradients import largest_difference
from remat_planner.planner.partition.part import CompiledPart, composition
from remat_planner.planner.partition.search import Search
from remat_planner.planner.plan import refuse_applied
from remat_planner.planner.planning import Budget, InputForm, parse_budget, size_ranges
from remat_planner.planner.torch_inductor import error_within
from remat_planner.planner.torch_symbols import constraint_violated
from remat_planner.schedules import SizeRange
from remat_planner.tracer.joint import tensor_inputs
from remat_planner.tracer.refusals import refuse_model, refuse_without_backward

logger = logging.getLogger("remat_planner")

ATTEMPTS = 4
"""Compilations at most: the first, and three with what the predictions were too low by."""
_COSTLY, _ROOM = 0.005, 0.02
"""Predicted extra time, and share of the budget left, above which it is worth compiling once more for a faster partition."""


@dataclass(frozen=True)
class CompiledStep:
    """How a step of a compiled model keeps to its budget.

    Attributes:
        budget_bytes: of parameters, buffers, inputs, activations and gradients.
        predicted_peak_bytes: the same bytes at the peak, by the model of the kernels that inductor makes.
        measured_peak_bytes: at the peak of a real step.
        parts: the graphs of the step, in the order of their forwards.
        attempts: how often the model was compiled.
        largest_difference: of a gradient from eager's, as a share of its largest element; None where they were not compared:
            the step draws random numbers, or eager's step does not fit the device.
    """

    budget_bytes: int
    predicted_peak_bytes: int
    measured_peak_bytes: int
    parts: tuple[CompiledPart, ...]
    attempts: int
    largest_difference: float | None = None

    @property
    def overhead(self) -> float:
        """Predicted seconds that the budget costs, as a share of the step of the fastest partition."""
        fastest = sum(part.fastest_seconds for part in self.parts)
        return sum(part.seconds for part in self.parts) / fastest - 1.0 if fastest else 0.0

    @property
    def bound(self) -> float:
        """Predicted seconds that any partition within the budget takes at least, as a share of those of this one.

        A partition computes each value at most once more and has the order of ``torch.compile``; a schedule may be faster.
        """
        seconds = sum(part.seconds for part in self.parts)
        return sum(min(part.bound_seconds, part.seconds) for part in self.parts) / seconds if seconds else 1.0


_steps: weakref.WeakKeyDictionary[nn.Module, CompiledStep] = weakref.WeakKeyDictionary()


def compile(  # noqa: A001
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    budget: int | str,
    loss: Loss | None = None,
    shapes: str | None = None,
) -> nn.Module:
    """``torch.compile(model, dynamic=False)``, with a step within ``budget`` as measured.

    With ``shapes`` one compilation serves ranges of sizes: it is planned and measured at the largest ones, and takes no more
    at smaller ones.

    The model is compiled with ``budgeted_backend``, and a step on these inputs runs: forward, loss and backward. Its gradients
    are compared with eager's, unless the step draws random numbers or eager's does not fit the device. Where its peak
    exceeds the budget, the model is compiled again with a budget lowered by what was mispredicted, three times at most; where
    the first prediction was too high and the budget costs time, once with a budget raised by that. The model, its inputs,
    gradients and random generators are left as they were. ``compiled_step`` has the figures.

    Args:
        model: the model, in the mode in which it is trained.
        args: positional inputs.
        kwargs: named inputs.
        budget: bytes of the whole step: parameters, buffers, inputs, activations and gradients; or a share ("70%") of the
            peak of the fastest partition, as predicted, and as measured where that is compiled.
        loss: output -> scalar, where the output carries none.
        shapes: ranges of sizes, ``"batch=1..8, tokens=128..4096"``, as in ``plan``; the inputs are of the largest ones.
            Without, each shape is compiled by itself.

    Raises:
        InfeasibleBudgetError: no partition is within the budget, or the measured peaks stay above it.
        BudgetError: the budget is none, or "min".
        CompilerError: inductor cannot be used here, or this release of PyTorch has no place for a partitioner, or
            ``torch.compile`` captured nothing of the model, or a gradient is not eager's.
        ShapesError: ``shapes`` are no ranges of these inputs, or the model cannot be compiled for such ranges.
        AlreadyAppliedError: the model, or a module inside it, has a schedule.
        tracer.ModelNotSupportedError: the model is compiled already, wrapped for several ranks, or no module.
        tracer.NothingToTrainError: nothing in the step gets a gradient.
    """
    refuse_model(model)
    refuse_applied(model)
    wanted = parse_budget(budget)
    if wanted.least:
        raise BudgetError('a compiled step has no least budget: write a number of bytes, such as "40GB", or a share, "60%"')
    kwargs = dict(kwargs or {})
    refuse_without_backward(model, tensor_inputs(args, kwargs))
    ranges = () if shapes is None else size_ranges(shapes, InputForm(args, kwargs))
    with state_restored(model, args, kwargs, others=() if loss is None else (loss,)) as state:
        compiled, step = _Compilation(model, args, kwargs, loss, wanted, ranges, state).within_budget()
    _steps[compiled] = step
    logger.info(
        "compiled within %s: %s measured, %s predicted, %s more time than without a budget",
        format_bytes_both(step.budget_bytes),
        format_bytes_both(step.measured_peak_bytes),
        format_bytes_both(step.predicted_peak_bytes),
        format_percent(step.overhead),
    )
    return compiled


def compiled_step(model: nn.Module) -> CompiledStep:
    """The figures of a model that ``compile`` returned.

    Raises:
        KeyError: it did not return this one.
    """
    return _steps[model]


@dataclass
class _Compilation:
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Loss | None
    budget: Budget
    ranges: tuple[SizeRange, ...]
    state: KeptState

    def within_budget(self) -> tuple[nn.Module, CompiledStep]:
        less = 0
        earlier: tuple[CompiledPart, ...] = ()
        tried = []
        searches: dict[str, Search] = {}
        fits: tuple[nn.Module, CompiledStep] | None = None
        for attempt in range(1, ATTEMPTS + 1):
            backend = BudgetedBackend(self.budget, earlier=earlier, less=less, always=True, searches=searches)
            # With ranges their dimensions are marked in each call; others are symbols where a later call has another size.
            compiled: Any = torch.compile(self.model, backend=backend, dynamic=None if self.ranges else False)
            measured = self._constant_bytes() + self._peak(compiled)
            if not backend.parts:
                raise CompilerError(
                    f"torch.compile captured no graph of this {type(self.model).__name__} that has a backward, so all of it "
                    "runs as it is: torch._dynamo.explain(model)(...) says why. remat_planner.plan needs no torch.compile",
                    compiler="inductor",
                )
            predicted = self._constant_bytes() + backend.predicted_peak_bytes - backend.constant_bytes
            budget = self._budget_bytes(backend, measured)
            step = CompiledStep(budget, predicted, measured, tuple(backend.parts), attempt)
            if measured <= budget and (fits is None or step.overhead < fits[1].overhead):
                fits = compiled, step
            if fits is not None:
                if attempt > 1 or not self._leaves_room(step):
                    return fits[0], self._compared(fits[0], replace(fits[1], attempts=attempt))
                earlier, less = step.parts, measured - predicted
                continue
            tried.append(step)
            if predicted > budget - less:
                break  # nothing less is found
            earlier = step.parts
            less = measured - predicted
        lowest = min(tried, key=lambda step: step.measured_peak_bytes)
        highest = max(lowest.parts, key=lambda part: part.peak_bytes)
        often = "once" if len(tried) == 1 else f"{len(tried)} times"
        constant = format_bytes_both(self._constant_bytes())
        raise InfeasibleBudgetError(
            f"compiled {often}, the step took {format_bytes_both(lowest.measured_peak_bytes)} at least as measured "
            f"({format_bytes_both(lowest.predicted_peak_bytes)} predicted), above the budget of "
            f"{format_bytes_both(lowest.budget_bytes)}. {constant} are parameters, buffers and inputs; the rest, "
            f"{composition(highest)}. A partition computes each value at most once more; "
            "remat_planner.plan and apply_schedule can go lower",
            budget=lowest.budget_bytes,
            minimum=lowest.measured_peak_bytes,
            bottleneck=highest.at_peak.kernel,
            proven=any(math.isinf(part.bound_seconds) for part in lowest.parts),
        )

    def _leaves_room(self, step: CompiledStep) -> bool:
        """Whether so much of the budget is left, since the prediction was too high, that a faster partition may fit."""
        room = step.predicted_peak_bytes - step.measured_peak_bytes
        return step.overhead > _COSTLY and room > _ROOM * (step.budget_bytes - self._constant_bytes())

    def _peak(self, compiled: nn.Module) -> int:
        """Measured peak of the second step, in bytes above the constant ones: the first compiles."""
        device = device_of(self.model)
        try:
            self._step(compiled)()
        except Exception as error:
            if constraint_violated(error):
                raise ShapesError(
                    f"torch.compile captures this {type(self.model).__name__} for fewer sizes than "
                    f"{', '.join(map(str, self.ranges))}: leave shapes out, and each size is compiled by itself. It says: "
                    f"{error}",
                    number=None,
                ) from error
            raise error_within(error) from error
        self.state.restart()
        peak = measure_peak(self._step(compiled), device)
        self.state.restart()
        return peak

    def _step(self, called: nn.Module) -> Callable[[], Any]:
        def with_ranges(*args: Any, **kwargs: Any) -> Any:
            tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            for index, dim in (place for of in self.ranges for place in of.dims):
                torch._dynamo.mark_dynamic(tensors[index], dim)  # copies of the inputs, which stay as they are
            return called(*args, **kwargs)

        return one_step(with_ranges, self.args, self.kwargs, self.loss)

    def _compared(self, compiled: nn.Module, step: CompiledStep) -> CompiledStep:
        eager, with_budget = self._step(self.model), self._step(compiled)
        return replace(step, largest_difference=largest_difference(self.model, eager, with_budget, self.state.restart))

    def _constant_bytes(self) -> int:
        tensors = [*self.model.parameters(), *self.model.buffers(), *tensor_inputs(self.args, self.kwargs)]
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(storages.values())

    def _budget_bytes(self, backend: BudgetedBackend, measured: int) -> int:
        """The budget; as a share, of the peak of the fastest partition: the measured one if that is what was compiled."""
        is_fastest = all(part.seconds == part.fastest_seconds for part in backend.parts)
        return self.budget.resolve(max(self._constant_bytes() + backend.fastest_peak_bytes, measured if is_fastest else 0))
