"""``plan`` and ``trace``: from a model and a number of bytes to a schedule, or to the graph of the training step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from torch import nn
from torch.optim import Optimizer

from remat_planner.planner.errors import AlreadyAppliedError, CompilerError, InfeasibleBudgetError, RegionError
from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.planning import (
    Budget,
    InputForm,
    Loss,
    Offload,
    Progress,
    Settings,
    Step,
    budget_on_device,
    form_at,
    input_forms,
    least_budget,
    peak_without_recomputation,
    remember_capture,
    schedule_ranges,
    schedule_step,
    settings_for,
    size_ranges,
    trace_step,
)
from remat_planner.planner.regions import AUTO_REGIONS, plan_regions, plan_regions_instead, planned_regions, suggest_regions
from remat_planner.planner.runtime import is_planned_module
from remat_planner.planner.verified_plan import check_plan, is_to_verify
from remat_planner.schedules import BudgetOn, Graph, RegionSchedule, Schedule, SizeRange, TrainingState, Variants
from remat_planner.solvers import Order, Reporter, Solver
from remat_planner.tracer import CaptureError
from remat_planner.tracer.refusals import refuse_no_call, refuse_no_module

_Result = TypeVar("_Result")

PLANNING = threading.RLock()
"""Threads plan one after the other: a plan runs real steps, and puts random generators and torch's settings back."""


def plan(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    budget: int | str,
    solver: str | Solver = "auto",
    time_limit: float = 60.0,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str | Optimizer | None = None,
    training: TrainingState | None = None,
    budget_on: BudgetOn = "allocated",
    regions: str | type[nn.Module] | None = None,
    whole: bool = False,
    shapes: Sequence[Any] | str | None = None,
    offload: Offload | None = None,
    variants: Variants = "exact",
    order: Order = "given",
    verify: bool | None = None,
    compiler: str | None = None,
) -> Schedule | RegionSchedule:
    """Find the schedule of one training step that stays within ``budget`` at the least extra time.

    Overheads of up to 0.5 % of the step count as none. Within them the plan takes the lowest peak, even below the budget.

    Planning leaves the model as it was: parameters, gradients, buffers, mode and random generators.

    Where the plan's device is at hand, the planned step is run beside eager's, as ``remat_planner.verify`` does, and a plan
    that does not hold is refused. Where eager has no room for the whole batch, the largest part for which it has room is
    planned alike and run, and the logger "remat_planner" says which.

    Args:
        model: the module to train.
        args: positional inputs of its forward.
        kwargs: named inputs of its forward.
        budget: bytes at the peak of one training step on the device (parameters, gradients, buffers, inputs, activations,
            workspace, and optimizer state where ``optimizer`` is given): an int, "40GB" (10^9), "512MiB" (2^20) or "60%" of
            the peak without recomputation; "auto" is the GPU's memory less a reserve, "min" the least for which a schedule is
            found.
        solver: a name from ``solvers.available()``, or a ``Solver`` of your own.
        time_limit: seconds that solving may take.
        loss: output -> scalar, or (output, batch) -> scalar, where the batch is what the model is called with in that step: one
            positional input itself or a tuple of several, a dict of named ones, or a pair of both. By default ``output.loss``,
            ``output["loss"]`` or the output if it is a scalar; else every differentiable output gets a gradient.
        costs: "measure" on the model's device, the name of a GPU for its roofline, or a profile file.
        optimizer: a name ("adamw", "sgd:momentum=0.9", "adamw:fused=True") or an instance. The peak counts its state, and what
            its step takes after the backward.
        training: how gradients, parameters and the optimizer are kept; by default as PyTorch does in one process.
        budget_on: "allocated" limits the bytes that the allocator hands out, as ``torch.cuda.max_memory_allocated`` counts
            them; "reserved" those that a GPU's allocator reserves from the driver, as ``max_memory_reserved``, predicted by its
            rules for a fresh process.
        regions: plan these modules, each by itself, and run the rest as it is: a pattern of names ("model.layers.*", matched
            part by part as file names are, from the end where it matches no full name), a class or its name, or "auto" for the
            repeated blocks, or the largest parts of them, that can be planned. Planning runs the step on its device to measure
            the rest; the budget is for the whole step. A model that cannot be captured whole is planned by "auto" of itself,
            and the logger "remat_planner" says why.
        whole: refuse a model that cannot be captured whole.
        shapes: more forms of input to plan for, each within the budget: a tensor, a tuple of positional inputs, a dict of
            named ones, or a pair of both. Training then runs each form by its own schedule and plans none of them again. A
            budget in percent refers to the highest peak without recomputation of any form, and ``time_limit`` is for each form.
            The result is the schedule of the form with that peak; its ``companions`` are the others. Or ranges of sizes,
            ``"batch=1..8, tokens=128..4096"``, beside inputs of the largest ones: each range is of all dimensions that have
            its largest size (``"tokens@1=128..768"``: of dimensions 1 alone). Training then plans for no size in them.
        offload: where activations may be copied to, beside what is recomputed: ``Offload(host="64GB")`` for a GPU, or
            ``Offload(disk="500GB", folder="/scratch")``. By default nothing is copied.
        variants: "exact" for operators that give eager's bits; "any" to let it compute a ``cross_entropy`` behind a linear
            layer in chunks of its rows, so that the logits are never there whole. Sums over the rows are then made in parts,
            and the gradients are close to eager's, not equal; the plan says so (``schedule.graph.inexact``), and is verified
            by closeness.
        order: "any" lets first executions move too: weight gradients later or earlier, branches one after the other. Bits stay
            eager's: what draws random numbers, updates state or must run once keeps its place. Models with many branches
            (experts, unrolled cells) need less memory or recomputation so; the search takes longer, and the bound is
            one for every order where that says anything.
        verify: False to leave out running the planned step; True to refuse a plan that cannot be run here.
        compiler: refused: ``remat_planner.compile`` plans a compiled step, which has no schedule.

    Raises:
        CompilerError: there is a ``compiler``.
        BudgetError: the budget is not a number of bytes, or is on reserved bytes for a plan that is not for a GPU.
        OffloadError: what ``offload`` names cannot serve this plan, or has no room.
        OptimizerError: the bytes of the optimizer cannot be counted.
        TrainingStateError: ``training`` has the optimizer on the host of a plan for a CPU.
        OrderError: ``order`` is "any" together with copies or with a solver that keeps the order.
        VariantsError: ``variants`` is neither "exact" nor "any".
        UnknownSolverError, SolverMissingError: no solver has this name, or its library is not installed.
        InfeasibleBudgetError: no schedule was found within the budget.
        AlreadyAppliedError: the model, or a module inside it, has a schedule already.
        RegionError: the regions cannot be planned.
        ShapesError: the model cannot be called with one of ``shapes``, or cannot be planned for these ranges.
        VerificationError: the planned step was run, and leaves something else than eager or takes more than the budget.
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
    """
    if compiler is not None:
        raise CompilerError(
            "plan finds a schedule, and a compiled step has none: remat_planner.compile(model, args, kwargs, budget=...) plans "
            "what torch.compile saves and recomputes, and returns the compiled model. To compile what runs between the "
            f"recomputations of a schedule, leave compiler out here: apply_schedule(..., compiler={compiler!r}) has it",
            compiler=compiler,
        )
    refuse_applied(model)
    refuse_no_call(args, kwargs)
    asked = budget_on_device(budget, model, costs)  # refuse bad arguments before the work, not after
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
    if regions is not None and shapes is not None:
        raise RegionError(
            "regions are planned for the form of input that the step runs with: leave shapes out, or plan the whole model",
            names=(),
        )
    if regions is not None and whole:
        raise RegionError("whole=True refuses what regions= asks for: leave one of them out", names=())
    given = InputForm(tuple(args), dict(kwargs or {}))
    ranges = size_ranges(shapes, given) if isinstance(shapes, str) else ()
    forms = (given,) if shapes is None or ranges else input_forms(args, kwargs or {}, shapes)

    def planned(forms: Sequence[InputForm], budget: Budget) -> Schedule | RegionSchedule:
        if ranges and forms[0] is given:
            return plan_ranges(model, given, ranges, budget, settings)
        if regions is not None:
            return plan_regions(model, forms[0].args, forms[0].kwargs, budget=budget, regions=regions, settings=settings)
        if len(forms) > 1:
            return _plan_forms(model, forms, budget, settings)
        if whole:
            return schedule_step(trace_whole(model, forms[0].args, forms[0].kwargs, settings=settings), budget)
        return plan_whole_or_regions(model, forms[0], budget, settings)

    with PLANNING:
        schedule = planned(forms, asked)
        if is_to_verify(verify):
            check_plan(model, forms, within(given, ranges), schedule, settings, planned, insist=bool(verify))
    return schedule


def plan_ranges(model: nn.Module, form: InputForm, ranges: Sequence[SizeRange], budget: Budget, settings: Settings) -> Schedule:
    """The schedule for all sizes of ``ranges``; ``form`` has the largest. See ``schedule_ranges``."""

    def trace(inputs: InputForm) -> Step:
        return trace_whole(model, inputs.args, inputs.kwargs, settings=settings)

    return schedule_ranges(model, form, ranges, budget, settings, trace)


def within(form: InputForm, ranges: Sequence[SizeRange]) -> tuple[InputForm, ...]:
    """Inputs of the smallest sizes of ``ranges``, and of some in the middle; none without ranges."""
    sizes = [[of.least for of in ranges], [(of.least + of.largest) // 2 for of in ranges]]
    return tuple(form_at(form, ranges, of_form) for of_form in sizes) if ranges else ()


def plan_traced(model: nn.Module, form: InputForm, step: Step, budget: int | str, *, verify: bool | None) -> Schedule:
    """The plan of a step that is traced already, for these inputs; ``budget`` and ``verify`` are those of ``plan``.

    Raises:
        BudgetError: the budget is not a number of bytes.
        InfeasibleBudgetError: no schedule was found within the budget.
        VerificationError: the planned step was run, and leaves something else than eager or takes more than the budget.
    """
    settings = step.settings

    def plan_again(forms: Sequence[InputForm], budget: Budget) -> Schedule | RegionSchedule:
        return plan_whole_or_regions(model, forms[0], budget, settings)

    with PLANNING:
        schedule = schedule_step(step, budget_on_device(budget, model, settings.costs))
        if is_to_verify(verify):
            check_plan(model, (form,), (), schedule, settings, plan_again, insist=bool(verify))
    return schedule


def refuse_applied(model: nn.Module) -> None:
    """Refuse a model that has a schedule, or a module inside it that has one.

    Raises:
        AlreadyAppliedError: it has; the message says what to plan instead.
        tracer.errors.ModelNotSupportedError: it is no module.
    """
    refuse_no_module(model)
    original = "plan the original model, which is remat_planner.remove_schedule(model)"
    if applied := planned_regions(model):
        raise AlreadyAppliedError(
            f"regions of this {type(model).__name__} have schedules already ({merged_names(list(applied))}): {original}"
        )
    inside = [name for name, module in model.named_modules() if is_planned_module(module)]
    if inside == [""]:
        raise AlreadyAppliedError(f"this {type(model).__name__} has a schedule already: {original}")
    if inside:
        raise AlreadyAppliedError(
            f"{inside[0]} of this {type(model).__name__} has a schedule already: put the original module back in its place, "
            "which is remat_planner.remove_schedule(module), and plan that"
        )


def _plan_forms(model: nn.Module, forms: Sequence[InputForm], budget: Budget, settings: Settings) -> Schedule:
    """The schedule of the form with the highest peak without recomputation; the others are its companions."""
    steps: list[Step] = []
    for form in forms:
        if not any(form.runs(step) for step in steps):
            steps.append(trace_whole(model, form.args, form.kwargs, settings=settings))
    steps.sort(key=peak_without_recomputation, reverse=True)
    least = max(map(least_budget, steps)) if budget.least else budget.resolve(peak_without_recomputation(steps[0]))
    limit = Budget(bytes=least)
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


class Run(Protocol):
    """A way to run some work."""

    def __call__(self, work: Callable[[], _Result], /) -> _Result:
        """The result of ``work``."""


def plan_whole_or_regions(
    model: nn.Module,
    form: InputForm,
    budget: Budget,
    settings: Settings,
    *,
    stage: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
    reporter: Reporter | None = None,
    run: Run = lambda work: work(),
) -> Schedule | RegionSchedule:
    """Plan the whole model, or its regions where it cannot be captured whole.

    Args:
        model: the model.
        form: the inputs of the step.
        budget: of the step.
        settings: what to plan with.
        stage: called with the name of each stage after the capture.
        progress: called while ops are costed, see ``trace_step``.
        reporter: told what the solver finds.
        run: runs what follows the capture of the whole model, in another thread for instance.

    Raises:
        tracer.CaptureError: neither can be captured.
        InfeasibleBudgetError: no schedule was found within the budget.
    """
    try:
        step = trace_step(model, form.args, form.kwargs, settings=settings, progress=progress)
    except CaptureError as error:
        by_regions = partial(
            plan_regions, model, form.args, form.kwargs, budget=budget, regions=AUTO_REGIONS, settings=settings, stage=stage
        )
        return plan_regions_instead(error, model, lambda: run(by_regions))
    stage("Solving")
    return run(lambda: schedule_step(step, budget, reporter=reporter))


def trace_whole(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    *,
    settings: Settings,
    progress: Progress | None = None,
) -> Step:
    """``trace_step``, with an error that names the regions that can be captured if the whole model cannot.

    Raises:
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
    """
    try:
        return trace_step(model, args, kwargs, settings=settings, progress=progress)
    except CaptureError as error:
        suggest_regions(error, model, args, kwargs or {})
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
    refuse_no_module(model)
    return trace_step(model, args, kwargs, settings=Settings(loss=loss, costs=costs)).graph
