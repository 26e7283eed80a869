"""The largest batch that fits a budget, found by planning the step for one batch after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from remat_planner.planner.errors import BatchError, BudgetError, InfeasibleBudgetError
from remat_planner.planner.planning.budget import Budget
from remat_planner.planner.planning.device_budget import budget_on_device
from remat_planner.planner.planning.settings import Loss, settings_for
from remat_planner.planner.planning.signatures import input_signature
from remat_planner.planner.planning.solve_step import schedule_step
from remat_planner.planner.planning.step import trace_step
from remat_planner.schedules import BudgetOn, Schedule

MOST = 65_536
"""Batches beyond this are not tried."""

_PRECISION = 32  # the search ends where the next batch to try is within a 32nd of one that fits
_KINDS_OF_TOKENS = (torch.int64, torch.int32)


@dataclass(frozen=True)
class Batches:
    """Inputs whose first dimension is the batch, at any size of it.

    Attributes:
        size: samples in the inputs as they were given.
        scaled: places of the tensors that grow with the batch, as ``input_signature`` names them.
        tokens: tokens in one sample, where an input is integers of shape [batch, tokens]; else None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int
    scaled: tuple[str, ...]
    tokens: int | None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batches:
        """The batch is the first dimension of the first tensor; every tensor with as many rows grows with it.

        Raises:
            BatchError: no input is a tensor with a dimension.
        """
        inputs = (tuple(args), dict(kwargs))
        places = dict(zip(input_signature(*inputs), pytree.tree_leaves(inputs), strict=True))
        tensors = {place: leaf for place, leaf in places.items() if isinstance(leaf, torch.Tensor) and leaf.dim()}
        if not tensors:
            raise BatchError("no input is a tensor with a batch dimension: fit needs inputs whose first dimension is the batch")
        size = next(iter(tensors.values())).shape[0]
        scaled = {place: leaf for place, leaf in tensors.items() if leaf.shape[0] == size}
        tokens = (t.shape[1] for t in scaled.values() if t.dim() == 2 and t.dtype in _KINDS_OF_TOKENS)
        return cls(*inputs, size, tuple(scaled), next(tokens, None))

    def inputs(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named inputs with ``batch`` samples: those given, repeated in turn."""

        def scale(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not leaf.dim() or leaf.shape[0] != self.size:
                return leaf
            with torch.no_grad():
                repeated = torch.cat([leaf] * -(-batch // self.size))[:batch].clone()
            return repeated.requires_grad_(leaf.requires_grad)

        args, kwargs = pytree.tree_map(scale, (self.args, self.kwargs))
        return args, kwargs


@dataclass(frozen=True)
class Try:
    """One batch that was tried.

    Attributes:
        batch: samples.
        schedule: the plan for it, or None where none was found within the budget.
        minimum: least budget in bytes for which a schedule was found, where none was within the budget.
    """

    batch: int
    schedule: Schedule | None
    minimum: int | None = None

    @property
    def samples_per_second(self) -> float:
        """Predicted, of the whole step without the optimizer; 0 where the batch does not fit."""
        return self.batch / self.schedule.seconds if self.schedule is not None else 0.0


@dataclass(frozen=True)
class Fit:
    """What fits: the batches tried, in rising order, and the budget in bytes."""

    budget: Budget
    batches: Batches
    tries: tuple[Try, ...]

    @property
    def largest(self) -> Try:
        """The largest batch for which a plan was found."""
        return max((t for t in self.tries if t.schedule is not None), key=lambda t: t.batch)

    @property
    def fastest(self) -> Try:
        """The batch with the most samples per second; it need not be the largest."""
        return max(self.tries, key=lambda t: t.samples_per_second)


def fit(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    budget: int | str,
    solver: str = "auto",
    time_limit: float = 20.0,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str | Optimizer | None = None,
    gradient_dtype: str | None = None,
    master_weights: bool = False,
    shard: int = 1,
    zero_stage: int = 3,
    optimizer_offload: bool = False,
    accumulate: bool = False,
    gradient_buckets: str | None = None,
    budget_on: BudgetOn = "allocated",
    trying: Callable[[int], None] | None = None,
) -> Fit:
    """Search for the largest batch whose training step fits ``budget``, recomputing what it must.

    The batch is doubled or halved from the one given until it stops fitting or fits, then bisected to within a 32nd. The inputs
    given are repeated along their first dimension.

    Args:
        model, args, kwargs, solver, loss, costs, optimizer, gradient_dtype, master_weights, shard, zero_stage,
            optimizer_offload, accumulate, gradient_buckets, budget_on: as in ``remat_planner.plan``.
        budget: bytes, or "auto"; a share has no meaning, since the peak without recomputation grows with the batch.
        time_limit: seconds that solving may take for each batch.
        trying: called with each batch before it is planned.

    Raises:
        BudgetError: the budget is no number of bytes, or a share.
        BatchError: the inputs have no batch dimension.
        InfeasibleBudgetError: not even one sample fits.
        tracer.CaptureError: the model cannot be captured.
    """
    asked = budget_on_device(budget, model, costs)
    if asked.bytes is None:
        raise BudgetError(f"a budget of {budget!r} grows with the batch, so every batch would fit: give bytes, such as '40GB'")
    batches = Batches.of(args, kwargs or {})
    settings = settings_for(
        model,
        solver=solver,
        time_limit=time_limit,
        loss=loss,
        costs=costs,
        optimizer=optimizer,
        gradient_dtype=gradient_dtype,
        master_weights=master_weights,
        shard=shard,
        zero_stage=zero_stage,
        optimizer_offload=optimizer_offload,
        accumulate=accumulate,
        gradient_buckets=gradient_buckets,
        budget_on=budget_on,
    )
    tries: dict[int, Try] = {}
    fits, too_large, batch = 0, MOST + 1, batches.size
    while batch <= MOST:
        if trying is not None:
            trying(batch)
        args_of, kwargs_of = batches.inputs(batch)
        try:
            found = schedule_step(trace_step(model, args_of, kwargs_of, settings=settings), asked)
            tries[batch], fits = Try(batch, found), batch
        except InfeasibleBudgetError as error:
            if batch == 1:
                raise
            tries[batch], too_large = Try(batch, None, error.minimum), batch
        if too_large > MOST:
            batch *= 2
        elif not fits:
            batch //= 2
        elif too_large - fits > max(1, fits // _PRECISION):
            batch = (fits + too_large) // 2
        else:
            break
    return Fit(asked, batches, tuple(tries[batch] for batch in sorted(tries)))
