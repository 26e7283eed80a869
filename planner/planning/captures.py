"""Remembers what is behind each schedule of this process: capture, settings and asked share, so that nothing is done again."""

from __future__ import annotations

import weakref
from fractions import Fraction

from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import Step
from remat_planner.planner.training_state import OptimizerNeeds
from remat_planner.schedules import Schedule
from remat_planner.tracer import Joint

_live: weakref.WeakKeyDictionary[Schedule, tuple[Joint, Settings]] = weakref.WeakKeyDictionary()
_shares: weakref.WeakKeyDictionary[Schedule, Fraction] = weakref.WeakKeyDictionary()


def remember_share(schedule: Schedule, share: Fraction) -> None:
    """Keep that the budget of ``schedule`` was asked for as this share of its peak without recomputation."""
    _shares[schedule] = share


def asked_share(schedule: Schedule) -> Fraction | None:
    """The share that was asked for; None for a budget in bytes, or a schedule from a file."""
    return _shares.get(schedule)


def remember_capture(schedule: Schedule, step: Step) -> None:
    """Keep the capture and settings of ``step`` until ``schedule`` is garbage."""
    _live[schedule] = (step.joint, step.settings)


def remembered_capture(schedule: Schedule) -> Joint | None:
    """The capture that ``schedule`` was planned on; None if it was loaded from a file."""
    return _live[schedule][0] if schedule in _live else None


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
