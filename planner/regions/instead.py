"""Plans by regions in place of a model that cannot be captured whole, and says so."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import nn

from remat_planner.planner.errors import InfeasibleBudgetError, RegionError
from remat_planner.planner.module_paths import merged_names
from remat_planner.schedules import RegionSchedule
from remat_planner.tracer import CaptureError
from remat_planner.tracer.errors import LossError, ModelNotSupportedError, NothingToTrainError

_log = logging.getLogger("remat_planner")


def plan_regions_instead(error: CaptureError, model: nn.Module, plan: Callable[[], RegionSchedule]) -> RegionSchedule:
    """The result of ``plan``, which plans ``model`` by regions, where ``error`` says why it cannot be captured whole.

    Raises:
        tracer.CaptureError: ``error``, where regions cannot help, or none can be planned either.
        InfeasibleBudgetError: no choice of schedules for the regions stays within the budget.
    """
    if isinstance(error, LossError | NothingToTrainError):
        raise error
    if isinstance(error, ModelNotSupportedError) and error.kind != "closure":
        raise error  # it is no module, or wrapped or compiled too early
    try:
        schedule = plan()
    except InfeasibleBudgetError as infeasible:
        infeasible.args = (
            f"{infeasible} The model is planned by regions, since it cannot be captured whole: {_reason(error)}",
        )
        raise
    except Exception as why:  # also the model's own, of which the capture told
        if isinstance(why, RegionError | CaptureError):
            error.args = (f"{error}. By regions it cannot be planned either: {why}", *error.args[1:])
        raise error from why
    _log.warning(
        "%s is planned by regions (%s), since it cannot be captured whole: %s",
        type(model).__name__,
        merged_names(list(schedule.regions)),
        _reason(error),
    )
    return schedule


def _reason(error: CaptureError) -> str:
    """Its first sentence, without the advice after it."""
    return str(error).partition(". ")[0]
