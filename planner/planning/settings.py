"""TODO: ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from remat_planner.planner.planning.device_budget import check_budget_on, check_offload, device_type
from remat_planner.planner.training_state import AS_THE_MODEL, NO_OPTIMIZER, OptimizerNeeds, TrainingState, optimizer_needs
from remat_planner.schedules import BudgetOn


def settings_for(
    model: nn.Module,
    *,
    solver: str = "auto",
    time_limit: float = 60.0,
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
) -> Settings:
    """The arguments of ``plan``, with what the optimizer takes counted.

    Raises:
        BudgetError: the budget is on reserved bytes, and the plan is for no GPU.
        OptimizerError: the optimizer cannot be counted.
        TrainingStateError: no such gradient dtype, number of ranks, stage or kind of buckets; an optimizer on the host of a
            plan for a CPU.
    """
    check_budget_on(budget_on, model, costs)
    if optimizer_offload:
        check_offload(model, costs)
    state = TrainingState(gradient_dtype, master_weights, shard, zero_stage, optimizer_offload, accumulate, gradient_buckets)
    if optimizer is None:
        return Settings(solver, time_limit, loss, costs, state=state, budget_on=budget_on)
    name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
    needs = optimizer_needs(optimizer, model.parameters(), device=device_type(model, costs), state=state)
    return Settings(solver, time_limit, loss, costs, name, state, needs, budget_on)


Loss = Callable[[Any], torch.Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How a schedule was asked for, so that the same can be asked again for other inputs.

    Attributes:
        solver: a name out of ``solvers.available()``.
        time_limit: seconds that solving may take.
        loss: output -> scalar, or None for the default.
        costs: "measure", the name of a GPU, or a profile file.
        optimizer: name of the optimizer whose state is counted, or None.
        state: gradient dtype, master weights, shards, gradient buckets, and where the optimizer and the gradients are.
        budget_on: what the budget limits: "allocated" or, on a GPU, "reserved" bytes.
        optimizer_needs: bytes of that state and of the optimizer's step.
    """

    solver: str = "auto"
    time_limit: float = 60.0
    loss: Loss | None = None
    costs: str = "measure"
    optimizer: str | None = None
    state: TrainingState = AS_THE_MODEL
    optimizer_needs: OptimizerNeeds = NO_OPTIMIZER
    budget_on: BudgetOn = "allocated"
