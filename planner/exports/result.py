"""What an export is asked with and what it answers: the setting, its text, and what it costs beside the schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from remat_planner.planner.exports.eager_checkpointing import EagerStep, Run
from remat_planner.schedules import Schedule


@dataclass(frozen=True)
class Request:
    """A model, its schedule, and the step as eager runs it."""

    model: nn.Module
    schedule: Schedule
    step: EagerStep

    @property
    def budget(self) -> int:
        """Bytes that the step may take."""
        return self.schedule.budget


@dataclass(frozen=True)
class Tried:
    """One setting of a form, and the step under it."""

    setting: Mapping[str, Any]
    run: Run


@dataclass(frozen=True)
class Export:
    """A schedule in the form that another trainer takes.

    Attributes:
        form: one out of ``FORMS``.
        setting: what is set, as data; empty values where nothing need be.
        code: the same as text: Python that defines what to call, or a line of options.
        budget: bytes that the schedule was planned for.
        peak_bytes: predicted for the step in this form.
        overhead: extra time in this form, as a fraction of the step without recomputation.
        schedule_peak_bytes: predicted for the schedule itself.
        schedule_overhead: extra time of the schedule itself.
        notes: what else to know before it is used.
    """

    form: str
    setting: Mapping[str, Any]
    code: str
    budget: int
    peak_bytes: int
    overhead: float
    schedule_peak_bytes: int
    schedule_overhead: float
    notes: tuple[str, ...] = ()

    @property
    def within_budget(self) -> bool:
        """Whether this form meets the budget; where it is False, this is the setting with the lowest peak."""
        return self.peak_bytes <= self.budget

    @property
    def loss(self) -> float:
        """Overhead that the coarser form adds to the schedule's, as a fraction of the step without recomputation."""
        return self.overhead - self.schedule_overhead


def answer(request: Request, form: str, chosen: Tried, code: str, notes: Iterable[str] = ()) -> Export:
    """The export of ``request`` as ``chosen``."""
    own, baseline = request.step.run_of(request.schedule), request.schedule.graph.seconds
    if chosen.run.peak_bytes <= request.budget and chosen.run.seconds < own.seconds:
        notes = (*notes, "this form is predicted to be cheaper than the schedule: plan again with more time or solver='auto'")
    return Export(
        form=form,
        setting=chosen.setting,
        code=code,
        budget=request.budget,
        peak_bytes=chosen.run.peak_bytes,
        overhead=chosen.run.seconds / baseline - 1 if baseline else 0.0,
        schedule_peak_bytes=own.peak_bytes,
        schedule_overhead=own.seconds / baseline - 1 if baseline else 0.0,
        notes=tuple(notes),
    )


def best(tried: Iterable[Tried], budget: int) -> Tried:
    """The cheapest that fits the budget; where none does, the one with the lowest peak."""
    return min(
        tried,
        key=lambda one: (
            one.run.peak_bytes > budget,
            (one.run.seconds, one.run.peak_bytes) if one.run.peak_bytes <= budget else (one.run.peak_bytes, one.run.seconds),
        ),
    )


def least_that_fits(most: int, run: Callable[[int], Tried], budget: int) -> list[Tried]:
    """Bisect for the least q out of 1 to ``most`` whose ``run(q)`` fits; all that was tried, ``run(most)`` among it."""
    tried = {most: run(most)}
    few, many = 1, most
    while few < many:
        q = (few + many) // 2
        tried[q] = run(q)
        if tried[q].run.peak_bytes <= budget:
            many = q
        else:
            few = q + 1
    if few not in tried:
        tried[few] = run(few)
    return list(tried.values())
