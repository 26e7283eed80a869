"""The question that every form answers, the answer, and the search for the best setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from remat_planner.planner.exports.eager_checkpointing import EagerStep, StepCost
from remat_planner.schedules import Schedule, preference


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
class Trial:
    """One setting of a form, and the cost of the step under it."""

    setting: Mapping[str, Any]
    cost: StepCost


@dataclass(frozen=True)
class Export:
    """A schedule in the form that another trainer takes.

    Attributes:
        form: one out of ``FORMS``.
        setting: the setting as data; empty where the step fits without checkpointing.
        code: the setting as text: Python that defines what to call, or a line of options.
        budget: bytes that the schedule was planned for.
        peak_bytes: predicted for the step in this form.
        overhead: extra time in this form, as a fraction of the step without recomputation.
        schedule_peak_bytes: predicted for the schedule itself.
        schedule_overhead: extra time of the schedule itself.
        notes: what else to know before using it.
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
        """Whether this form meets the budget; if not, this is the setting with the lowest peak."""
        return self.peak_bytes <= self.budget

    @property
    def loss(self) -> float:
        """Overhead that the coarser form adds to the schedule's, as a fraction of the step without recomputation."""
        return self.overhead - self.schedule_overhead


def answer(request: Request, form: str, chosen: Trial, code: str, notes: Iterable[str] = ()) -> Export:
    """The export of ``request`` with the chosen setting."""
    planned, baseline = request.step.cost_of(request.schedule), request.schedule.graph.seconds
    if chosen.cost.peak_bytes <= request.budget and chosen.cost.seconds < planned.seconds:
        notes = (*notes, "this form is predicted to be cheaper than the schedule: plan again with more time or solver='auto'")
    return Export(
        form=form,
        setting=chosen.setting,
        code=code,
        budget=request.budget,
        peak_bytes=chosen.cost.peak_bytes,
        overhead=chosen.cost.seconds / baseline - 1 if baseline else 0.0,
        schedule_peak_bytes=planned.peak_bytes,
        schedule_overhead=planned.seconds / baseline - 1 if baseline else 0.0,
        notes=tuple(notes),
    )


def best(trials: Iterable[Trial], budget: int) -> Trial:
    """The cheapest that fits the budget; the one with the lowest peak where none does."""
    return min(trials, key=lambda trial: preference(trial.cost, budget))


def least_that_fits(most: int, run: Callable[[int], Trial], budget: int) -> list[Trial]:
    """Bisect for the least q out of 1 to ``most`` whose ``run(q)`` fits; returns every trial, ``run(most)`` among them."""
    trials = {most: run(most)}
    low, high = 1, most
    while low < high:
        q = (low + high) // 2
        trials[q] = run(q)
        if trials[q].cost.peak_bytes <= budget:
            high = q
        else:
            low = q + 1
    if low not in trials:
        trials[low] = run(low)
    return list(trials.values())
