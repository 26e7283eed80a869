"""``fit``: searches for the largest batch that fits a budget, by planning the step for one batch after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from remat_planner.planner.errors import BatchError, BudgetError, InfeasibleBudgetError
from remat_planner.planner.planning.budget import Budget
from remat_planner.planner.planning.device_budget import budget_on_device
from remat_planner.planner.planning.offload import Offload
from remat_planner.planner.planning.settings import Loss, settings_for
from remat_planner.planner.planning.signatures import input_signature
from remat_planner.planner.planning.solve_step import schedule_step
from remat_planner.planner.planning.step import trace_step
from remat_planner.schedules import BudgetOn, Schedule, TrainingState, Variants
from remat_planner.solvers import Order, Solver
from remat_planner.tracer.joint import flatten_inputs, has_parts, map_tensors
from remat_planner.tracer.refusals import refuse_no_call, refuse_no_module

LARGEST_BATCH = 65_536
"""Samples; larger batches are not tried."""

_PRECISION = 32  # the search ends once the next batch to try is within a 32nd of one that fits
_TOKEN_DTYPES = (torch.int64, torch.int32)


@dataclass(frozen=True)
class Batches:
    """Inputs whose first dimension is the batch, which can be scaled to any number of samples.

    Attributes:
        args: positional inputs, as the caller passed them.
        kwargs: named inputs, as the caller passed them.
        size: samples in these inputs.
        scaled: places of the tensors that grow with the batch, as ``input_signature`` names them.
        tokens: tokens in one sample if an input is integers of shape [batch, tokens], else None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int
    scaled: tuple[str, ...]
    tokens: int | None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batches:
        """Take the first dimension of the first tensor as the batch; every tensor with as many rows grows with it.

        Raises:
            BatchError: no input is a tensor with at least one dimension, or one is sparse or jagged.
        """
        inputs = (tuple(args), dict(kwargs))
        if has_parts(*inputs):
            raise BatchError(
                "an input is sparse or jagged, and how it grows with the batch is not known: plan each size by itself (plan)"
            )
        places = dict(zip(input_signature(*inputs), flatten_inputs(*inputs)[0], strict=True))
        tensors = {place: leaf for place, leaf in places.items() if isinstance(leaf, torch.Tensor) and leaf.dim()}
        if not tensors:
            raise BatchError("no input is a tensor with a batch dimension: fit needs inputs whose first dimension is the batch")
        size = next(iter(tensors.values())).shape[0]
        scaled = {place: leaf for place, leaf in tensors.items() if leaf.shape[0] == size}
        tokens = (t.shape[1] for t in scaled.values() if t.dim() == 2 and t.dtype in _TOKEN_DTYPES)
        return cls(*inputs, size, tuple(scaled), next(tokens, None))

    def inputs(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named inputs with ``batch`` samples, which repeat the caller's samples in turn."""

        def scale(leaf: torch.Tensor) -> torch.Tensor:
            if not leaf.dim() or leaf.shape[0] != self.size:
                return leaf
            with torch.no_grad():
                repeated = torch.cat([leaf] * -(-batch // self.size))[:batch].clone()
            return repeated.requires_grad_(leaf.requires_grad)

        args, kwargs = map_tensors(scale, (self.args, self.kwargs))
        return args, kwargs


@dataclass(frozen=True)
class Try:
    """One batch that the search tried.

    Attributes:
        batch: samples.
        schedule: the plan for it, or None if none was found within the budget.
        minimum: the least budget in bytes for which a schedule was found; None if ``schedule`` is one.
    """

    batch: int
    schedule: Schedule | None
    minimum: int | None = None

    @property
    def samples_per_second(self) -> float:
        """Predicted samples per second of the step without the optimizer; 0 if the batch does not fit."""
        return self.batch / self.schedule.seconds if self.schedule is not None else 0.0


@dataclass(frozen=True)
class Fit:
    """The result of ``fit``: the budget in bytes, the scalable inputs, and the batches tried in rising order."""

    budget: Budget
    batches: Batches
    tries: tuple[Try, ...]

    @property
    def largest(self) -> Try:
        """The largest batch for which a plan was found."""
        return max((t for t in self.tries if t.schedule is not None), key=lambda t: t.batch)

    @property
    def fastest(self) -> Try:
        """The batch with the most samples per second, which need not be the largest."""
        return max(self.tries, key=lambda t: t.samples_per_second)


def fit(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    budget: int | str,
    solver: str | Solver = "auto",
    time_limit: float = 20.0,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str | Optimizer | None = None,
    training: TrainingState | None = None,
    budget_on: BudgetOn = "allocated",
    offload: Offload | None = None,
    variants: Variants = "exact",
    order: Order = "given",
    trying: Callable[[int], None] | None = None,
) -> Fit:
    """Search for the largest batch whose training step fits ``budget``, with as much recomputation as needed.

    Starting from the batch of the inputs, the search doubles it until it no longer fits, or halves it until it fits, and then
    bisects to within a 32nd. Larger batches repeat the inputs along their first dimension.

    Args:
        model, args, kwargs, solver, loss, costs, optimizer, training, budget_on, offload, variants, order: as of ``plan``.
        budget: bytes, or "auto". A share means nothing here, since the peak without recomputation grows with the batch.
        time_limit: seconds that solving may take for each batch.
        trying: receives each batch before it is planned.

    Raises:
        BudgetError: the budget is a share, or not a number of bytes.
        BatchError: the inputs have no batch dimension.
        InfeasibleBudgetError: not even one sample fits.
        OffloadError: what ``offload`` names cannot serve these plans, or has no room.
        tracer.CaptureError: the model cannot be captured.
    """
    asked = budget_on_device(budget, model, costs)
    if asked.bytes is None:
        raise BudgetError(f"a budget of {budget!r} grows with the batch, so every batch would fit: give bytes, such as '40GB'")
    refuse_no_module(model)
    refuse_no_call(args, kwargs)
    batches = Batches.of(args, kwargs or {})
    settings = settings_for(
        model,
        solver=solver,
        time_limit=time_limit,
        loss=loss,
        costs=costs,
        optimizer=optimizer,
        training=training,
        budget_on=budget_on,
        offload=offload,
        variants=variants,
        order=order,
    )
    tries: dict[int, Try] = {}
    fits, too_large, batch = 0, LARGEST_BATCH + 1, batches.size
    while batch <= LARGEST_BATCH:
        if trying is not None:
            trying(batch)
        step_args, step_kwargs = batches.inputs(batch)
        try:
            schedule = schedule_step(trace_step(model, step_args, step_kwargs, settings=settings), asked)
            tries[batch], fits = Try(batch, schedule), batch
        except InfeasibleBudgetError as error:
            if batch == 1:
                raise
            tries[batch], too_large = Try(batch, None, error.minimum), batch
        if too_large > LARGEST_BATCH:
            batch *= 2
        elif not fits:
            batch //= 2
        elif too_large - fits > max(1, fits // _PRECISION):
            batch = (fits + too_large) // 2
        else:
            break
    return Fit(asked, batches, tuple(tries[batch] for batch in sorted(tries)))
