"""Verifying a new plan on the device at hand, and on as much of its batch as eager has room for there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import nn

from remat_planner.planner.distributed import Ranks, in_process_group
from remat_planner.planner.errors import BatchError, EagerStepError, InfeasibleBudgetError, VerificationError
from remat_planner.planner.formatting import format_bytes, format_inputs
from remat_planner.planner.measurement import Verification, device_of
from remat_planner.planner.planning import (
    Batches,
    Budget,
    InputForm,
    Settings,
    available_on_host,
    input_signature,
    planned_form,
)
from remat_planner.planner.training_state import beyond_one_process
from remat_planner.planner.verify import verify
from remat_planner.schedules import RegionSchedule, Schedule, StaleScheduleError
from remat_planner.tracer.costs import DEVICES, is_for_gpu
from remat_planner.tracer.torch_private import fake_mode_of

BY_DEFAULT = True
"""Whether plans are verified where the caller says nothing about it."""

PlanAgain = Callable[[Sequence[InputForm], Budget], Schedule | RegionSchedule]
"""``plan_again(forms, budget)``: a schedule for other inputs, planned as the one to verify was."""

_ROOM = Fraction(9, 10)
"""Share of the free memory that eager may take for a part of a batch, for which nothing is predicted exactly."""

_TOLERATED = 0.01
"""How far the measured peak may exceed the budget before a plan is refused, as a share of the budget."""

_MOST_NAMES = 4
_log = logging.getLogger("remat_planner")


@dataclass(frozen=True)
class Verdict:
    """What became of the verification of a plan.

    Attributes:
        verification: what was found; None where the plan was not run.
        why_not: why it was not run.
    """

    verification: Verification | None
    why_not: str = ""


def is_to_verify(asked: bool | None) -> bool:
    """Whether to verify a plan, where the caller has ``asked`` for it, or against it, or has said nothing."""
    return BY_DEFAULT if asked is None else asked


def check_plan(
    model: nn.Module,
    forms: Sequence[InputForm],
    smaller: Sequence[InputForm],
    schedule: Schedule | RegionSchedule,
    settings: Settings,
    plan_again: PlanAgain,
    *,
    insist: bool,
) -> None:
    """Verify a new plan for each of its forms, and refuse it where it does not hold.

    Args:
        model: the model.
        forms: the inputs to run.
        smaller: parts of them, of sizes in the ranges of the plan; one whose values lead to another step is left out.
        schedule: the plan.
        settings: what it was planned with.
        plan_again: plans for a part of the batch.
        insist: whether the caller wants it to be run.

    Raises:
        VerificationError: it does not hold; or it cannot be run here, and the caller ``insist``s.
    """
    for verdict in verdicts_on(model, forms, smaller, schedule, settings, plan_again):
        found = verdict.verification
        if found is not None:
            _refuse_refuted(schedule, found)
            if not found.within_budget:
                over = format_bytes(found.measured_peak_bytes - found.budget_bytes)
                _log.warning("when it ran, the planned step took %s more than its budget", over)
            if found.part:
                _log.info("verified on %s", found.part)
        elif insist:
            raise VerificationError(
                f"the plan cannot be verified here: {verdict.why_not}", schedule=schedule, budget_bytes=schedule.budget
            )
        else:
            on_paper = settings.costs.lower() in DEVICES  # as the caller wanted
            _log.log(logging.INFO if on_paper else logging.WARNING, "not verified: %s", verdict.why_not)


def verdict_on(
    model: nn.Module,
    form: InputForm,
    schedule: Schedule | RegionSchedule,
    settings: Settings,
    plan_again: PlanAgain,
) -> Verdict:
    """Verify ``schedule`` for one form, or a plan like it for a part of the batch where eager has no room for all of it.

    All ranks of a wrapped model find the same.
    """
    if why := _why_not_run(model, settings.costs, schedule):
        return Verdict(None, why)
    planned = planned_form(model, schedule, form.args, form.kwargs)
    constant = planned.constant_bytes if isinstance(planned, RegionSchedule) else planned.graph.constant_bytes
    ranks = Ranks.of(model)
    share = min(ranks.gathered(_share_with_room(device_of(model), planned.baseline_peak_bytes - constant)))
    budget = Budget(share=Fraction(schedule.budget, planned.baseline_peak_bytes))
    tried, part = form, ""
    while True:
        if share < 1:
            smaller, samples = _part_of(form, share)
            if smaller is None:
                return Verdict(None, "eager takes more memory than there is, and the inputs have no smaller batch")
            tried, schedule = smaller, _planned_alike(smaller, budget, plan_again)
            part = f"{samples} samples of the batch, since eager takes more memory for all of them than there is"
        try:
            found = verify(model, schedule, tried.args, tried.kwargs, loss=settings.loss)
        except EagerStepError as error:
            if not isinstance(error.__cause__, torch.OutOfMemoryError):
                return Verdict(None, str(error))
        else:
            return Verdict(replace(max(ranks.gathered(found), key=_how_wrong), part=part))
        share = min(share, Fraction(1)) / 2


def verdicts_on(
    model: nn.Module,
    forms: Sequence[InputForm],
    smaller: Sequence[InputForm],
    schedule: Schedule | RegionSchedule,
    settings: Settings,
    plan_again: PlanAgain,
) -> Iterator[Verdict]:
    """What becomes of verifying ``schedule`` for ``forms``, and for ``smaller`` ones where they run its step."""
    for form in (*forms, *smaller):
        try:
            yield verdict_on(model, form, schedule, settings, plan_again)
        except StaleScheduleError as error:
            if any(form is asked for asked in forms):
                raise
            _log.info("not verified for %s: %s", format_inputs(input_signature(form.args, form.kwargs)), error)


def worst_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of some verdicts; that a plan was not run counts as worst."""

    def how_bad(verdict: Verdict) -> tuple[bool, tuple[int, int]]:
        found = verdict.verification
        return found is None, (0, 0) if found is None else _how_wrong(found)

    return max(verdicts, key=how_bad)


def _planned_alike(form: InputForm, budget: Budget, plan_again: PlanAgain) -> Schedule | RegionSchedule:
    """The schedule for a part of the batch; a smaller step may not shrink to the same share of its peak."""
    try:
        return plan_again([form], budget)
    except InfeasibleBudgetError as error:
        return plan_again([form], Budget(bytes=error.minimum))


def _part_of(form: InputForm, share: Fraction) -> tuple[InputForm | None, int]:
    """The inputs with ``share`` of the samples, and how many these are; None where there would be none."""
    try:
        batches = Batches.of(form.args, form.kwargs)
    except BatchError:
        return None, 0
    samples = int(batches.size * share)
    return (InputForm(*batches.inputs(samples)), samples) if samples else (None, 0)


def _refuse_refuted(schedule: Schedule | RegionSchedule, found: Verification) -> None:
    if not found.as_promised:
        names = ", ".join(found.differences[:_MOST_NAMES])
        more = f" and {len(found.differences) - _MOST_NAMES} more" if len(found.differences) > _MOST_NAMES else ""
        why = f"the planned step does not leave what eager leaves ({names}{more}), which is a fault of the planner: report it"
    elif found.measured_peak_bytes > found.budget_bytes * (1 + _TOLERATED):
        over = format_bytes(found.measured_peak_bytes - found.budget_bytes)
        why = (
            f"the planned step takes {format_bytes(found.measured_peak_bytes)} when it runs, above its budget of "
            f"{format_bytes(found.budget_bytes)}: plan with a budget that is {over} lower"
        )
    else:
        return
    raise VerificationError(
        f"{why}{f' (it was run on {found.part})' if found.part else ''}. plan(..., verify=False) leaves this check out",
        schedule=schedule,
        budget_bytes=found.budget_bytes,
        differences=found.differences,
        measured_peak_bytes=found.measured_peak_bytes,
    )


def _how_wrong(found: Verification) -> tuple[int, int]:
    return len(found.differences), found.measured_peak_bytes - found.budget_bytes


def _why_not_run(model: nn.Module, costs: str, schedule: Schedule | RegionSchedule) -> str:
    """Why the step of ``schedule`` cannot be run here; "" where it can."""
    if costs.lower() in DEVICES:
        return f"it is planned for {costs} on paper"
    if fake_mode_of([*model.parameters(), *model.buffers()]) is not None or device_of(model).type == "meta":
        return "the model is on paper"
    if isinstance(schedule, Schedule) and (counted := beyond_one_process(schedule.origin.training)) is not None:
        return f"it counts {counted}, which a step in one process does not have"
    if isinstance(schedule, Schedule) and schedule.pool_peak_bytes and is_for_gpu(costs) and device_of(model).type == "cpu":
        return "it copies activations from a GPU, and the model is on the CPU"
    if in_process_group() and not Ranks.of(model).groups:
        return "other ranks may take part in the model's step: call verify on every rank"
    return ""


def _share_with_room(device: torch.device, needed: int) -> Fraction:
    """The share of ``needed`` bytes, at most 1, that eager can take on ``device``."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = available_on_host() or needed
    return Fraction(1) if needed <= free else _ROOM * Fraction(free, needed)
