"""From a model and a number of bytes to a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from remat_planner.planner.errors import AlreadyAppliedError, InfeasibleBudgetError, RegionError
from remat_planner.planner.planning import (
    Budget,
    Form,
    Loss,
    Progress,
    Settings,
    Step,
    budget_on_device,
    forms_of,
    merged_names,
    peak_without_recomputation,
    remember_capture,
    schedule_step,
    settings_for,
    trace_step,
)
from remat_planner.planner.regions import name_regions, plan_regions, planned_regions
from remat_planner.schedules import BudgetOn, Graph, RegionSchedule, Schedule
from remat_planner.tracer import CaptureError


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
    gradient_dtype: str | None = None,
    master_weights: bool = False,
    shard: int = 1,
    zero_stage: int = 3,
    optimizer_offload: bool = False,
    accumulate: bool = False,
    gradient_buckets: str | None = None,
    budget_on: BudgetOn = "allocated",
    regions: str | type[nn.Module] | None = None,
    shapes: Sequence[Any] | None = None,
) -> Schedule | RegionSchedule:
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
        gradient_dtype: in which gradients are kept ("float32"); by default that of each parameter.
        master_weights: whether the optimizer steps on float32 copies of parameters in less.
        shard: ranks over which the training state is divided; ``planner.training_state`` says what else is counted.
        zero_stage: what is divided over them: 1 the optimizer's state and master weights, 2 gradients too, 3 parameters too,
            as FSDP does.
        optimizer_offload: whether the optimizer is on the host: its state, the master weights and its step take nothing.
        accumulate: whether the step adds to gradients that are there before it, as all but the first of an accumulation do:
            they are counted from the beginning, and each new gradient beside them until it is added.
        gradient_buckets: those of ``DistributedDataParallel`` around the planned model: "copied", or "views" where it is made
            with ``gradient_as_bucket_view=True``.
        budget_on: "allocated" limits the bytes that are handed out, as ``torch.cuda.max_memory_allocated`` counts them;
            "reserved" those that a GPU's allocator takes from the driver, as ``max_memory_reserved``, predicted by its rules
            for a fresh process.
        regions: plan these modules, each by itself, and run the rest as it is: a pattern of names ("model.layers.*", part by
            part as file names are matched), a class or its name, or "auto" for the repeated blocks. For models that cannot be
            captured whole. The step is run on its device to see what the rest takes; one budget holds for all.
        shapes: further forms of input to plan for, each within the budget: a tensor, a tuple of positional inputs, a dict of
            named ones, or a pair of both. Training then runs each by its own schedule and plans none of them again. A
            share is one of the highest peak without recomputation of any form, ``time_limit`` is for each, and what is
            returned is the schedule of the form with that peak, with the others in ``companions``.

    Raises:
        BudgetError: the budget is no number of bytes; on reserved bytes, and the plan is for no GPU.
        OptimizerError: the optimizer cannot be counted.
        TrainingStateError: no such gradient dtype, number of ranks, stage or kind of buckets; an optimizer on the host of a
            plan for a CPU.
        InfeasibleBudgetError: no schedule was found within the budget.
        RegionError: the regions cannot be planned as asked.
        ShapesError: a form of input that the model cannot be called with.
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
    """
    if isinstance(model, nn.Module) and (applied := planned_regions(model)):
        raise AlreadyAppliedError(
            f"regions of this {type(model).__name__} have schedules already ({merged_names(list(applied))}): plan the model "
            "itself, remat_planner.remove_schedule(model)"
        )
    asked = budget_on_device(budget, model, costs)  # what means nothing is refused before the work, not after
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
    if regions is not None:
        if shapes is not None:
            raise RegionError(
                "regions are planned for the one form of input that the step is run with: leave shapes out, or plan the whole "
                "model",
                names=(),
            )
        return plan_regions(model, args, kwargs or {}, budget=asked, regions=regions, settings=settings)
    if shapes is not None:
        return _plan_forms(model, forms_of(args, kwargs or {}, shapes), asked, settings)
    return schedule_step(trace_whole(model, args, kwargs, settings=settings), asked)


def _plan_forms(model: nn.Module, forms: Sequence[Form], budget: Budget, settings: Settings) -> Schedule:
    """The schedule of the form with the highest peak without recomputation, the others as its companions."""
    steps: list[Step] = []
    for form in forms:
        if not any(form.is_that_of(step) for step in steps):
            steps.append(trace_whole(model, form.args, form.kwargs, settings=settings))
    steps.sort(key=peak_without_recomputation, reverse=True)
    limit = Budget(bytes=budget.resolve(peak_without_recomputation(steps[0])))
    schedules: list[Schedule] = []
    refused: list[InfeasibleBudgetError] = []
    for step in steps:
        try:
            schedules.append(schedule_step(step, limit))
        except InfeasibleBudgetError as error:
            refused.append(error.of_form(step.origin.inputs, f" It is one of {len(steps)} forms." if len(steps) > 1 else ""))
    if refused:
        raise max(refused, key=lambda error: error.minimum)
    schedule = replace(schedules[0], companions=tuple(schedules[1:]))
    remember_capture(schedule, steps[0])
    return schedule


def trace_whole(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    *,
    settings: Settings,
    progress: Progress | None = None,
) -> Step:
    """``trace_step``, whose error names the regions that can be captured where the whole model cannot.

    Raises:
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
    """
    try:
        return trace_step(model, args, kwargs, settings=settings, progress=progress)
    except CaptureError as error:
        name_regions(error, model, args, kwargs or {})
        raise


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
