"""Puts a schedule on a model, and takes it off.

The planned module is a view of the model: an object of a subclass of its class, with the very same ``__dict__``. So parameters,
buffers, submodules, mode and all attributes are the model's, under the same names, and only ``forward`` differs. The model
itself stays untouched and eager.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from remat_planner.planner.compile import check_compiler, refuse_copies
from remat_planner.planner.errors import AlreadyAppliedError, CompilerError, InfeasibleBudgetError, NotAppliedError
from remat_planner.planner.formatting import format_percent
from remat_planner.planner.planning import (
    ENOUGH_FOR_REPLAN,
    LEAST_FOUND,
    REPLAN_TIME_LIMIT,
    Step,
    asked_relatively,
    limited,
    schedule_step,
    settings_for_replan,
    settings_of,
    state_signature,
    trace_step_like,
)
from remat_planner.planner.regions import RegionForward, apply_regions, named_in, planned_regions, remove_regions
from remat_planner.planner.runtime import Audit, PlannedCall, Replan, call_of, is_planned_module, planned_module
from remat_planner.schedules import (
    Origin,
    RegionSchedule,
    Schedule,
    StaleScheduleError,
    in_words,
    origin_differences,
    planned_ranges,
)
from remat_planner.tracer.refusals import refuse_compiled, refuse_compiled_around, refuse_no_module

_log = logging.getLogger("remat_planner")


def apply_schedule(
    model: nn.Module,
    schedule: Schedule | RegionSchedule,
    *,
    loss: Callable[..., torch.Tensor] | None = None,
    replan: Replan | None = None,
    replan_time_limit: float = REPLAN_TIME_LIMIT,
    compiler: str | None = None,
    audit: bool = True,
    disk_folder: str | Path | None = None,
) -> nn.Module:
    """The model as a module that trains by ``schedule``, with the same outputs, gradients and buffers, bit for bit.

    The planned module shares everything with ``model`` (parameters under the same names, buffers, submodules, mode,
    attributes) and is an instance of its class; ``model`` stays as it is. In evaluation mode and without gradients it runs
    the model's own forward. For inputs of another form it plans once more with the same budget in bytes, and says so on the
    logger "remat_planner".

    A schedule by regions is put on ``model`` itself, which is returned. Only the forwards of its blocks are replaced, so that
    the model can be wrapped afterwards (DDP, ``fully_shard``) as before.

    Train with what this returns, for both kinds: ``model = apply_schedule(model, schedule)``. If nothing keeps the planned
    module and ``model`` is trained, the logger "remat_planner" says so once.

    Args:
        model: the model that the schedule was planned for.
        schedule: from ``plan`` or ``Schedule.load``. A loaded one is checked against a capture at the first training call.
        loss: the loss that was given to ``plan``; only needed for a loaded schedule that was planned with one.
        replan: how to plan for other inputs, by default as ``schedule`` was planned. A schedule of known inputs is kept
            where the step has the same operators and it costs at most 1 % more time; else the solver searches.
        replan_time_limit: seconds that this search may take.
        compiler: "inductor" to compile what runs between the schedule's recomputations. The schedule still decides what is
            recomputed, but bits may differ from eager's and the peak from the plan's: ``verify`` shows both.
        audit: whether to record the forward again now and then while the model trains, on fake tensors, and to stop if it is
            not the planned one any more (``AuditError``). It finds what a planned step cannot watch: a file, the time, objects
            in C. All audits together take at most one hundredth of the time.
        disk_folder: where a schedule that copies activations to a disk puts its file, of the size that the schedule says; one
            more for each further forward before a backward. By default the folder that ``plan`` was given in this process.

    Raises:
        OffloadError: what the schedule copies to cannot serve the model's device, or has no room.
        CompilerError: the compiler is unknown, cannot be used here, or cannot compile the step.
        AlreadyAppliedError: ``model`` has a schedule.
        tracer.CaptureError: ``model`` is compiled.
        schedules.StaleScheduleError: the schedule was made for other parameters or buffers.
        schedules.InvalidScheduleError: the steps of the schedule would not give eager's bits.
    """
    refuse_compiled_for(model, schedule)
    if is_applied(model):
        raise AlreadyAppliedError(
            f"this {type(model).__name__} has a schedule already: apply the new one to the model itself, "
            "remat_planner.apply_schedule(remat_planner.remove_schedule(model), schedule)"
        )
    if compiler is not None:
        check_compiler(compiler, model.parameters())
        refuse_copies(compiler, schedule.pool_peak_bytes)
        _refuse_ranges(compiler, schedule)
    if isinstance(schedule, RegionSchedule):
        return apply_regions(
            model,
            schedule,
            replan=replan,
            replan_time_limit=replan_time_limit,
            compiler=compiler,
            audit=audit,
            disk_folder=disk_folder,
        )
    check_state(model, schedule)
    copies = compiler is None  # which runs none
    disk_folder = settings_of(schedule).disk_folder if disk_folder is None else disk_folder
    _warn_of_absent_gpu(model, schedule)
    call = PlannedCall(
        model,
        schedule,
        loss=loss,
        replan=replan or functools.partial(replan_like, loss=loss, time_limit=replan_time_limit, copies=copies),
        plan_level=functools.partial(_plan_level, time_limit=replan_time_limit, copies=copies) if replan is None else None,
        compiler=compiler,
        watched=True,
        audit=Audit() if audit else None,
        disk_folder=disk_folder,
    )
    planned = planned_module(model, call, _apply_again)
    call.returned(planned)
    return planned


def _refuse_ranges(compiler: str, schedule: Schedule | RegionSchedule) -> None:
    """Refuse to compile a plan for ranges of sizes: compiled code is for one size.

    Raises:
        CompilerError: it is one.
    """
    if isinstance(schedule, Schedule) and (ranges := planned_ranges(schedule)):
        raise CompilerError(
            f"the schedule is for ranges of sizes ({in_words(ranges)}), and compiled code is for one size: plan for some of "
            "them, plan(..., shapes=[...]), or leave the compiler out",
            compiler=compiler,
        )


def remove_schedule(model: nn.Module) -> nn.Module:
    """The model that ``apply_schedule`` was given, with everything that it has learned since.

    Raises:
        NotAppliedError: ``model`` has no schedule.
    """
    if planned_regions(model):
        remove_regions(model)
        return model
    call = planned_call(model)
    call.expect_unplanned()
    return call.model


def is_applied(model: nn.Module) -> bool:
    """Whether ``apply_schedule`` returned ``model``."""
    return is_planned_module(model) or bool(planned_regions(model))


def refuse_compiled_for(model: nn.Module, schedule: Schedule | RegionSchedule) -> None:
    """Refuse a compiled model: all of it, or for a schedule by regions what lies in and around these.

    Raises:
        tracer.errors.ModelNotSupportedError: it is compiled, or no module.
        TypeError: ``schedule`` is none.
    """
    if not isinstance(schedule, (Schedule, RegionSchedule)):
        raise TypeError(f"the schedule is a {type(schedule).__name__}: give the model first, then what plan returned for it")
    refuse_no_module(model)
    if isinstance(schedule, Schedule):
        refuse_compiled(model)
    else:
        for region in named_in(model, schedule.regions).values():
            refuse_compiled_around(model, region)


def compiler_of(model: nn.Module) -> str | None:
    """The compiler that ``apply_schedule`` was given for ``model``; None without one."""
    calls: list[PlannedCall | RegionForward] = (
        [planned_call(model)] if is_planned_module(model) else [*planned_regions(model).values()]
    )
    return next((call.compiler for call in calls), None)


def planned_call(model: nn.Module) -> PlannedCall:
    """The programs of a planned module.

    Raises:
        NotAppliedError: ``model`` has no schedule.
    """
    if not is_planned_module(model):
        raise NotAppliedError(f"this {type(model).__name__} has no schedule: remat_planner.apply_schedule did not return it")
    return call_of(model)


def replan_like(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    like: Schedule,
    *,
    loss: Callable[..., torch.Tensor] | None = None,
    time_limit: float = REPLAN_TIME_LIMIT,
    copies: bool = True,
) -> Schedule:
    """Plan for other inputs as ``like`` was planned, with the same budget; ``loss`` where ``like`` was loaded without it.

    Without copies unless ``copies`` can run.

    Where the budget was asked for as a share of the peak, or as the least, a step in another mode gets its own: dropout takes
    bytes of its own. So does a step on inputs of the same form that does not fit, as one that finds a state which the first
    step had not.

    Solving takes at most ``time_limit`` seconds, and no more than for ``like``.

    Raises:
        InfeasibleBudgetError: the budget is too small.
    """
    settings = settings_for_replan(like, time_limit, copies=copies)
    step = trace_step_like(model, args, kwargs, like, replace(settings, loss=settings.loss or loss))
    asked = asked_relatively(like)
    if asked is None or step.origin.modes == like.origin.modes:
        try:
            return schedule_step(step, like.budget, enough=ENOUGH_FOR_REPLAN)
        except InfeasibleBudgetError:
            if asked is None or step.origin.inputs != like.origin.inputs:
                raise
    schedule = schedule_step(step, asked, enough=ENOUGH_FOR_REPLAN)
    _log.warning(
        "the model is in another mode or state than the planned one: its budget, %s, is %s bytes now",
        LEAST_FOUND if asked.share is None else f"{format_percent(float(asked.share))} of the peak without recomputation",
        f"{schedule.budget:,}",
    )
    return schedule


def _plan_level(step: Step, like: Schedule, enough: float, *, time_limit: float, copies: bool) -> Schedule:
    """A schedule of ``step``, the step of ``like`` for other sizes; see ``schedule_step`` for ``enough``."""
    graph = step.graph if copies else step.graph.without_transfers
    step = replace(step, graph=graph, settings=limited(step.settings, time_limit, copies=copies))
    return schedule_step(step, like.budget, enough=enough)


def check_state(model: nn.Module, schedule: Schedule) -> None:
    """Require that ``model`` has the parameters and buffers of ``schedule``.

    Raises:
        schedules.StaleScheduleError: it has others.
    """
    planned = schedule.origin.parameters
    if not planned:
        return  # a schedule built by hand
    what = origin_differences(Origin(parameters=planned), Origin(parameters=state_signature(model)))
    if what:
        raise StaleScheduleError(
            f"the schedule was made for another model ({schedule.origin.model}): {'; '.join(what)}. Plan again for this one",
            differences=what,
        )


def _warn_of_absent_gpu(model: nn.Module, schedule: Schedule) -> None:
    """Say that a plan for a GPU is put on a model that runs on the CPU."""
    if schedule.origin.allocation_block > 1 and all(p.device.type == "cpu" for p in model.parameters()):
        _log.warning(
            "the schedule is planned for a GPU (costs=%r) and the model is on the CPU. Steps here have eager's bits, but take "
            "more than the predicted bytes: workspaces of CPU kernels are not counted. For a budget here, plan without costs",
            schedule.origin.costs,
        )


def _apply_again(
    model: nn.Module,
    schedule: Schedule,
    loss: Callable[..., torch.Tensor] | None,
    compiler: str | None,
    audit: bool = True,  # pickles that were written before have none
    disk_folder: str | Path | None = None,
) -> nn.Module:
    return apply_schedule(model, schedule, loss=loss, compiler=compiler, audit=audit, disk_folder=disk_folder)
