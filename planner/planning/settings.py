"""The settings of a plan: its arguments besides model, inputs and budget, checked, with the optimizer counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from remat_planner.planner.errors import VariantsError
from remat_planner.planner.planning.device_budget import check_budget_on, check_offload, device_type
from remat_planner.planner.planning.offload import Offload, pools_for
from remat_planner.planner.training_state import NO_OPTIMIZER, OptimizerNeeds, optimizer_needs
from remat_planner.schedules import BudgetOn, Pool, TrainingState, TrainingStateError, Variants
from remat_planner.solvers import Order, Solver, check_order
from remat_planner.solvers.registry import resolve

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

Loss = Callable[..., "torch.Tensor"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What a schedule was planned with besides model, inputs and budget, so that other inputs can be planned alike.

    Attributes:
        solver: a name out of ``solvers.available()``, or a solver of the user's own.
        time_limit: seconds that solving may take.
        loss: output -> scalar, (output, batch) -> scalar, or None for the default.
        costs: "measure", the name of a GPU, or a profile file.
        optimizer: name of the optimizer whose bytes are counted, or None.
        training: how gradients, parameters and the optimizer are kept.
        optimizer_needs: bytes of the optimizer's state and step.
        budget_on: what the budget limits: "allocated" or, on a GPU, "reserved" bytes.
        pools: where activations may be copied to.
        disk_folder: for the files of a disk pool; None where there is none.
        variants: "exact", or "any" where the plan may round otherwise than eager.
        order: "given", or "any" where first executions may move.
    """

    solver: str | Solver = "auto"
    time_limit: float = 60.0
    loss: Loss | None = None
    costs: str = "measure"
    optimizer: str | None = None
    training: TrainingState = field(default_factory=TrainingState)
    optimizer_needs: OptimizerNeeds = NO_OPTIMIZER
    budget_on: BudgetOn = "allocated"
    pools: tuple[Pool, ...] = ()
    disk_folder: Path | None = None
    variants: Variants = "exact"
    order: Order = "given"


def settings_for(
    model: nn.Module,
    *,
    solver: str | Solver = "auto",
    time_limit: float = 60.0,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str | Optimizer | None = None,
    training: TrainingState | None = None,
    budget_on: BudgetOn = "allocated",
    offload: Offload | None = None,
    variants: Variants = "exact",
    order: Order = "given",
) -> Settings:
    """Check the arguments of ``plan`` against each other and the device, and count the bytes of the optimizer.

    Raises:
        TypeError: ``time_limit`` is no number.
        BudgetError: the budget is on reserved bytes, and the plan is not for a GPU.
        OffloadError: the pools of ``offload`` mean nothing for this plan, or have no room.
        OptimizerError: the bytes of the optimizer cannot be counted.
        OrderError: ``order`` is neither "given" nor "any", or first executions cannot move.
        VariantsError: ``variants`` is neither "exact" nor "any".
        TrainingStateError: ``training`` is not a ``TrainingState``, or has the optimizer on the host of a plan for a CPU.
    """
    check_budget_on(budget_on, model, costs)
    if isinstance(time_limit, bool) or not isinstance(time_limit, Real) or math.isnan(time_limit):
        raise TypeError(f"time_limit is {time_limit!r}: give the seconds that solving may take, as a number")
    training = TrainingState() if training is None else training
    if not isinstance(training, TrainingState):
        raise TrainingStateError(
            f"training is of type {type(training).__name__}: give an object such as remat_planner.TrainingState(shard=8)"
        )
    if training.optimizer_offload:
        check_offload(model, costs)
    if variants not in get_args(Variants):
        raise VariantsError(f"variants can be {' or '.join(get_args(Variants))}, not {variants!r}")
    pools = pools_for(offload, model, costs, solver)
    check_order(order, resolve(solver), copies=bool(pools))
    name, needs = None, NO_OPTIMIZER
    if optimizer is not None:
        name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
        needs = optimizer_needs(optimizer, model.parameters(), device=device_type(model, costs), training=training)
    return Settings(
        solver=solver,
        time_limit=time_limit,
        loss=loss,
        costs=costs,
        optimizer=name,
        training=training,
        optimizer_needs=needs,
        budget_on=budget_on,
        pools=pools,
        disk_folder=None if offload is None or offload.folder is None else Path(offload.folder).absolute(),
        variants=variants,
        order=order,
    )
