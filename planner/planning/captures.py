"""TODO: ."""

from __future__ import annotations

import weakref

from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import Step
from remat_planner.planner.training_state import OptimizerNeeds, TrainingState
from remat_planner.schedules import Schedule
from remat_planner.tracer import Joint

# The capture and settings behind a schedule that was planned in this process: applying it need not capture again.
_live: weakref.WeakKeyDictionary[Schedule, tuple[Joint, Settings]] = weakref.WeakKeyDictionary()


def remember_capture(schedule: Schedule, step: Step) -> None:
    """Keep the capture and the settings at hand for as long as the schedule lives."""
    _live[schedule] = (step.joint, step.settings)


def remembered_capture(schedule: Schedule) -> Joint | None:
    """The capture that the schedule was planned on; None where it was loaded from a file."""
    return _live[schedule][0] if schedule in _live else None


def settings_of(schedule: Schedule) -> Settings:
    """How the schedule was asked for; from its file where it was loaded, which cannot hold the loss's code."""
    if schedule in _live:
        return _live[schedule][1]
    origin = schedule.origin
    return Settings(
        costs=origin.costs or "measure",
        optimizer=origin.optimizer,
        state=TrainingState(
            origin.gradient_dtype,
            origin.master_weights,
            origin.shard,
            origin.zero_stage,
            origin.optimizer_offload,
            origin.accumulate,
            origin.gradient_buckets,
        ),
        optimizer_needs=OptimizerNeeds(schedule.graph.constants.get("optimizer", 0), schedule.graph.update),
        budget_on=origin.budget_on,
    )
