"""Planning for ranges of sizes: one step for all of them where that is so, else one for each part of them.

A part is captured at its largest sizes with symbols for them. The conditions of that capture say for which other sizes the step
is the same, and the expressions of its bytes for which of them no storage is larger. What is left is captured as further parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

from torch import nn

from remat_planner.planner.errors import InfeasibleBudgetError, ShapesError
from remat_planner.planner.planning.budget import Budget
from remat_planner.planner.planning.captures import remember_capture, remember_sized
from remat_planner.planner.planning.input_forms import InputForm
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.size_ranges import at_sizes, form_at
from remat_planner.planner.planning.sized_steps import OneSizeError, SizedStep, capture_ranges
from remat_planner.planner.planning.solve_step import least_budget, peak_without_recomputation, schedule_step
from remat_planner.planner.planning.step import Step
from remat_planner.schedules import Schedule, SizeRange, in_words
from remat_planner.tracer import CaptureError
from remat_planner.tracer.sizes import Box, NotSizedError, OtherSizes, merged, without

_log = logging.getLogger("remat_planner")

_MOST_PARTS = 16
"""Each takes two captures."""
_MOST_ALONE = 3
"""Captures that hold for their largest sizes alone; so will the next ones."""
_MOST_HALVES = 3
"""Of each range; with smaller sizes the others are at their largest, so that these are not the smallest steps."""
_NO_EXTRA_TIME = 0.01
"""As a fraction of the step; smaller sizes need no plan of their own then."""
_MOST_REASONS = 3

Trace = Callable[[InputForm], Step]


@dataclass(frozen=True)
class _Part:
    """The step for some of the sizes.

    Attributes:
        step: for the largest of them.
        sized: for all of them; None where they are one size each.
    """

    step: Step
    sized: SizedStep | None


def schedule_ranges(
    model: nn.Module, form: InputForm, ranges: Sequence[SizeRange], budget: Budget, settings: Settings, trace: Trace
) -> Schedule:
    """The schedule of the largest sizes; its companions are those for smaller ones, which together are for all of ``ranges``.

    Args:
        model: the model.
        form: inputs of the largest sizes.
        ranges: of sizes.
        budget: for each size; a share is of the highest peak without recomputation.
        settings: what to plan with.
        trace: captures and costs the step of some inputs.

    Raises:
        ShapesError: the step cannot be captured for these ranges; the message says why and what to do.
        InfeasibleBudgetError: no schedule was found within the budget.
        tracer.CaptureError: the model cannot be captured.
    """
    if settings.pools:
        raise ShapesError(
            "copies are planned for the sizes that they are made with: leave offload out, or give the sizes one by one, "
            "shapes=[...]",
            number=None,
        )
    parts = list(_parts(model, form, ranges, settings, trace))
    parts.sort(key=lambda part: peak_without_recomputation(part.step), reverse=True)
    largest = parts[0].step
    least = max(least_budget(part.step) for part in parts) if budget.least else None
    limit = Budget(bytes=budget.resolve(peak_without_recomputation(largest)) if least is None else least)
    schedules: list[Schedule] = []
    for part in parts:
        try:
            schedule = schedule_step(part.step, limit)
        except InfeasibleBudgetError as error:
            raise error.of_form(part.step.origin.inputs) from None
        schedules.append(schedule)
        if part.sized is not None:
            remember_sized(schedule, part.sized)
            schedules += _for_smaller_sizes(model, part.sized, schedule, limit)
    planned = replace(schedules[0], companions=tuple(schedules[1:]))
    remember_capture(planned, largest)
    if parts[0].sized is not None:
        remember_sized(planned, parts[0].sized)
    return planned


def _parts(model: nn.Module, form: InputForm, ranges: Sequence[SizeRange], settings: Settings, trace: Trace) -> Iterator[_Part]:
    """The parts of ``ranges``, that of the largest sizes first."""
    boxes = _without_ones(tuple(of.bounds for of in ranges))
    reasons: dict[str, None] = {}
    count = alone = 0
    while boxes:
        if count == _MOST_PARTS or alone == _MOST_ALONE:
            listed = "; ".join(list(reasons)[:_MOST_REASONS])
            raise ShapesError(
                f"{in_words(ranges)} has too many parts with steps of their own (at most {_MOST_PARTS} are planned), for it is "
                f"asked: {listed}. Give a range in which the answer is the same, as with a larger least size, or the sizes one "
                "by one, shapes=[...]",
                number=None,
            )
        count += 1
        box = boxes.pop()
        here = tuple(replace(of, least=low, largest=high) for of, (low, high) in zip(ranges, box, strict=True))
        here = at_sizes(here, [high for _, high in box])
        inputs = form_at(form, ranges, [high for _, high in box])
        step = trace(inputs)
        varying = [of for of in here if of.least < of.largest]
        if not varying:
            yield _Part(step, None)
            continue
        step = replace(step, origin=replace(step.origin, ranges=here))
        sized = _captured(model, inputs, varying, step, settings)
        left: list[Box] = []
        for other in _other_sizes(sized, varying):
            reasons[other.why] = None
            wholes = [_with_fixed(box, part) for part in other.boxes]
            for whole in wholes:
                left += _without_all(whole, left)
        boxes += merged(left)
        alone += _count([box]) - _count(left) == 1
        yield _Part(step, sized)
    if count > 1:
        _log.info(
            "%s is planned in %d parts: the step depends on %s", in_words(ranges), count, "; ".join(reasons) or "a size of 1"
        )


def _captured(model: nn.Module, inputs: InputForm, ranges: Sequence[SizeRange], step: Step, settings: Settings) -> SizedStep:
    try:
        return capture_ranges(model, inputs.args, inputs.kwargs, ranges, step.joint, settings)
    except (OneSizeError, CaptureError) as error:
        raise _no_ranges(ranges, str(error)) from error


def _other_sizes(sized: SizedStep, ranges: Sequence[SizeRange]) -> list[OtherSizes]:
    try:
        return sized.joint.other_sizes([of.name for of in ranges])
    except NotSizedError as error:
        raise _no_ranges(ranges, str(error)) from error


def _no_ranges(ranges: Sequence[SizeRange], why: str) -> ShapesError:
    return ShapesError(
        f"the step cannot be planned for all of {in_words(ranges)} at once: {why}. Give the sizes one by one, shapes=[...], or "
        "leave shapes out: others are planned when they come",
        number=None,
    )


def _for_smaller_sizes(model: nn.Module, sized: SizedStep, largest: Schedule, limit: Budget) -> list[Schedule]:
    """Schedules for sizes half as large, and half of that, until they have no extra time."""
    found: list[Schedule] = []
    if largest.overhead <= _NO_EXTRA_TIME:
        return found
    ranges = largest.origin.ranges
    varying = [k for k, of in enumerate(ranges) if of.least < of.largest]
    for k in varying:
        for halves in range(1, _MOST_HALVES + 1):
            size = -(-ranges[k].largest // 2**halves)
            planned = at_sizes(ranges, [size if j == k else of.largest for j, of in enumerate(ranges)])
            sizes = sized.sizes_for({place: of.planned for of in planned for place in of.dims})
            if size < ranges[k].least or not sized.joint.holds(sizes):
                break
            step = sized.at(model, sizes)
            step = replace(step, origin=replace(step.origin, ranges=planned))
            with suppress(InfeasibleBudgetError):  # then they run by the schedule of the larger ones
                found.append(schedule_step(step, limit, enough=_NO_EXTRA_TIME))
            if found and found[-1].overhead <= _NO_EXTRA_TIME:
                break
    return found


def _without_ones(bounds: Box) -> list[Box]:
    """Boxes in which no size is 1 beside others: operators broadcast it, so the step is another one. The largest comes last."""
    boxes: list[Box] = [()]
    for low, high in bounds:
        intervals = [(1, 1), (2, high)] if low == 1 else [(low, high)]
        boxes = [(*box, interval) for interval in intervals for box in boxes]
    return boxes


def _count(boxes: Sequence[Box]) -> int:
    """The number of sizes in boxes that do not overlap."""
    return sum(prod(high - low + 1 for low, high in box) for box in boxes)


def _with_fixed(box: Box, part: Box) -> Box:
    """``part``, which is of the sizes of ``box`` that are not fixed, with those that are."""
    intervals = iter(part)
    return tuple(of if of[0] == of[1] else next(intervals) for of in box)


def _without_all(box: Box, others: Sequence[Box]) -> list[Box]:
    """``box`` without the sizes of ``others``."""
    left = [box]
    for other in others:
        left = [rest for whole in left for rest in without(whole, other)]
    return left
