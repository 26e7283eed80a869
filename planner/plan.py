"""From a model and a number of bytes to a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from planner.budget import Budget, parse_budget
from planner.capacity import budget_on_device, device_type
from planner.errors import InfeasibleBudgetError
from planner.found import remember_found, schedules_found
from planner.free_savings import is_free, save_for_free
from planner.optimizer import optimizer_needs
from planner.step import Loss, Settings, Step, remember_capture, trace_step
from schedules import Graph, Schedule, simulate
from solvers import Deadline, Reporter, Solution, solve


def plan(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    budget: int | str,
    solver: str = "auto",
    time_limit: float = 60.0,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str | Optimizer | None = None,
) -> Schedule:
    """Find the schedule of one training step that stays within ``budget`` at the least extra time.

    Overheads of up to 0.5 % of the step count as none: within them the plan takes the lowest peak, also below the budget.

    The model is left as it was: parameters, gradients, buffers, mode and random generators.

    Args:
        model: the module to train.
        args: positional inputs of its forward.
        kwargs: named inputs of its forward.
        budget: bytes at the peak of one training step on the device (parameters, gradients, buffers, inputs, activations,
            workspace, and optimizer state where ``optimizer`` is given): an int, "40GB" (10^9), "512MiB" (2^20) or "60%" of
            the peak without recomputation; "auto" is the GPU's memory less a reserve.
        solver: a name out of ``solvers.available()``.
        time_limit: seconds that solving may take.
        loss: output -> scalar. By default ``output.loss``, ``output["loss"]`` or the output if it is a scalar; else every
            differentiable output gets a gradient.
        costs: "measure" on the model's device, the name of a GPU for a roofline of it, or a profile file.
        optimizer: a name ("adamw", "sgd:momentum=0.9", "adamw:fused=True") or an instance: its state is counted, and what its
            step takes when the backward is over.

    Raises:
        BudgetError: the budget is no number of bytes.
        OptimizerError: the optimizer cannot be counted.
        InfeasibleBudgetError: no schedule was found within the budget.
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
    """
    asked = budget_on_device(budget, model, costs)  # what means nothing is refused before the work, not after
    settings = settings_for(model, solver=solver, time_limit=time_limit, loss=loss, costs=costs, optimizer=optimizer)
    return schedule_step(trace_step(model, args, kwargs, settings=settings), asked)


def trace(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Loss | None = None,
    costs: str = "measure",
) -> Graph:
    """The training step as a graph: ops with seconds, FLOPs and workspace, and the storages they read and write.

    Raises:
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
    """
    return trace_step(model, args, kwargs, settings=Settings(loss=loss, costs=costs)).graph


def settings_for(
    model: nn.Module,
    *,
    solver: str = "auto",
    time_limit: float = 60.0,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str | Optimizer | None = None,
) -> Settings:
    """The arguments of ``plan``, with what the optimizer takes counted.

    Raises:
        OptimizerError: the optimizer cannot be counted.
    """
    if optimizer is None:
        return Settings(solver, time_limit, loss, costs)
    name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
    needs = optimizer_needs(optimizer, model.parameters(), device=device_type(model, costs))
    return Settings(solver, time_limit, loss, costs, name, needs)


def schedule_step(step: Step, budget: Budget | int | str, *, reporter: Reporter | None = None) -> Schedule:
    """Find a schedule for a traced step; ``plan`` says what it means and raises."""
    graph = step.graph
    solver, time_limit = step.settings.solver, step.settings.time_limit
    baseline = simulate(graph, range(len(graph.ops)))
    asked = budget if isinstance(budget, Budget) else parse_budget(budget)
    limit = asked.resolve(baseline.peak_bytes)
    if graph.update and limit < graph.update_peak:
        raise _too_small_for_the_update(graph, limit)
    known = schedules_found(graph.fingerprint) if solver == "auto" else ()
    deadline = Deadline(time_limit)
    solution = solve(graph, limit, solver=solver, time_limit=time_limit, reporter=reporter, start=known)
    if solution.status == "infeasible":
        remember_found(graph.fingerprint, solution.minimum_steps)
        raise _infeasible(graph, solution, limit)
    steps = solution.steps
    if solver == "auto" and is_free(graph, solution.cost):
        steps = save_for_free(graph, solution, deadline)
    remember_found(graph.fingerprint, steps)
    schedule = Schedule(
        graph=graph,
        steps=steps,
        budget=limit,
        solver=solution.solver,
        status="optimal" if solution.status == "optimal" else "feasible",
        bound_seconds=solution.bound,
        assumption=solution.assumption,
        origin=step.origin,
    )
    remember_capture(schedule, step)
    return schedule


def _too_small_for_the_update(graph: Graph, budget: int) -> InfeasibleBudgetError:
    shares = ", ".join(f"{name} {size:,}" for name, size in graph.constants.items() if size)
    return InfeasibleBudgetError(
        f"the optimizer's step alone takes {graph.update_peak:,} bytes, more than the budget of {budget:,}: {shares}, outputs "
        f"and gradients {graph.lasting_bytes:,}, and its own intermediates {graph.update:,}. No recomputation changes that. "
        "Raise the budget to that, or take an optimizer whose step needs less (fused=True, or foreach=False).",
        budget=budget,
        minimum=graph.update_peak,
        bottleneck="optimizer step",
        proven=True,
    )


def _infeasible(graph: Graph, solution: Solution, budget: int) -> InfeasibleBudgetError:
    proven = math.isinf(solution.bound)
    found = f"exists ({solution.assumption})" if proven else "was found"
    reason = ""
    if budget <= graph.constant_bytes:
        shares = ", ".join(f"{name} {size:,}" for name, size in graph.constants.items() if size)
        reason = f": {graph.constant_bytes:,} bytes are there all the time ({shares}), before any activation"
    return InfeasibleBudgetError(
        f"no schedule {found} within {budget:,} bytes{reason}. The least budget for which one "
        f"was found is {solution.minimum:,} bytes, set by {solution.bottleneck}. Raise the budget to that, or make the batch "
        "smaller.",
        budget=budget,
        minimum=solution.minimum,
        bottleneck=solution.bottleneck or "",
        proven=proven,
    )
