"""Remembers what is behind each schedule of this process: capture, settings and asked budget, so that nothing is done again."""

from __future__ import annotations

import weakref

from remat_planner.planner.planning.budget import Budget
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.sized_steps import SizedStep
from remat_planner.planner.planning.step import Step
from remat_planner.planner.training_state import OptimizerNeeds
from remat_planner.schedules import Schedule
from remat_planner.tracer import Joint

_live: weakref.WeakKeyDictionary[Schedule, tuple[Joint, Settings]] = weakref.WeakKeyDictionary()
_sized: weakref.WeakKeyDictionary[Schedule, SizedStep] = weakref.WeakKeyDictionary()
_budgets: weakref.WeakKeyDictionary[Schedule, Budget] = weakref.WeakKeyDictionary()


def remember_budget(schedule: Schedule, asked: Budget) -> None:
    """Keep how the budget of ``schedule`` was asked for."""
    _budgets[schedule] = asked


def asked_relatively(schedule: Schedule) -> Budget | None:
    """The share or the least that was asked for; None for a budget in bytes, or a schedule from a file."""
    asked = _budgets.get(schedule)
    return None if asked is None or asked.bytes is not None else asked


def remember_capture(schedule: Schedule, step: Step) -> None:
    """Keep the capture and settings of ``step`` until ``schedule`` is garbage."""
    _live[schedule] = (step.joint, step.settings)


def remembered_capture(schedule: Schedule) -> Joint | None:
    """The capture that ``schedule`` was planned on; None if it was loaded from a file."""
    return _live[schedule][0] if schedule in _live else None


def remember_sized(schedule: Schedule, sized: SizedStep) -> None:
    """Keep the step of ``schedule`` for all sizes of its ranges."""
    _sized[schedule] = sized


def remembered_sized(schedule: Schedule) -> SizedStep | None:
    """The step of ``schedule`` for all sizes of its ranges; None if it was loaded from a file."""
    return _sized.get(schedule)


def settings_of(schedule: Schedule) -> Settings:
    """What ``schedule`` was planned with. A loaded one has what its file says, which is neither the loss nor the solver."""
    if schedule in _live:
        return _live[schedule][1]
    origin = schedule.origin
    return Settings(
        costs=origin.costs or "measure",
        optimizer=origin.optimizer,
        training=origin.training,
        optimizer_needs=OptimizerNeeds(schedule.graph.constants.get("optimizer", 0), schedule.graph.update),
        budget_on=origin.budget_on,
        variants=origin.variants,
        pools=schedule.graph.pools,
    )
