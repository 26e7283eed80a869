"""``remat_planner.export``: a schedule in the form that another trainer takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from remat_planner.planner.apply import check_state, is_applied, remove_schedule
from remat_planner.planner.errors import ExportError
from remat_planner.planner.exports.eager_checkpointing import EagerStep
from remat_planner.planner.exports.hf_transformers import export_transformers
from remat_planner.planner.exports.megatron import export_megatron
from remat_planner.planner.exports.modules import export_modules
from remat_planner.planner.exports.result import Export, Request
from remat_planner.planner.exports.selective import export_sac
from remat_planner.planner.planning import remembered_capture
from remat_planner.planner.runtime import recapture
from remat_planner.schedules import RegionSchedule, Schedule

FormName = Literal["sac", "modules", "transformers", "megatron"]
FORMS: dict[str, Callable[[Request], Export]] = {
    "sac": export_sac,
    "modules": export_modules,
    "transformers": export_transformers,
    "megatron": export_megatron,
}


def export(
    model: nn.Module,
    schedule: Schedule | RegionSchedule,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    to: str,
    loss: Callable[..., torch.Tensor] | None = None,
) -> Export:
    """The setting of another trainer that comes nearest to ``schedule``: within its budget at the least extra time.

    Nothing is run. The export says what it costs beside the schedule and whether it meets the budget. Where no setting of the
    form does, it is the one with the lowest peak, and ``within_budget`` is False.

    Args:
        model: the model that the schedule was planned for; it is left as it was.
        schedule: from ``plan`` or ``Schedule.load``, for the whole model.
        args: positional inputs, as planned; needed only for a loaded schedule.
        kwargs: named inputs, likewise.
        to: "sac" (a policy for selective checkpointing), "modules" (names to wrap with ``torch.utils.checkpoint``),
            "transformers" (every n layers) or "megatron" (a line of ``--recompute-*`` options).
        loss: output -> scalar, as given to ``plan``; needed only for a loaded schedule that was planned with one.

    Raises:
        ExportError: no such form, or the form cannot express this model or schedule.
        schedules.StaleScheduleError: the schedule is for another model or other inputs.
        tracer.CaptureError: the step of a loaded schedule cannot be captured.
    """
    if to not in FORMS:
        raise ExportError(f"no form is called {to!r}: choose one of {', '.join(FORMS)}", form=to, names=tuple(FORMS))
    if isinstance(schedule, RegionSchedule):
        raise ExportError(
            "a schedule by regions knows the costs of the regions alone, not of what runs between them: plan the whole model "
            "to export it",
            form=to,
        )
    if is_applied(model):
        model = remove_schedule(model)
    check_state(model, schedule)
    joint = remembered_capture(schedule) or recapture(model, args, dict(kwargs or {}), schedule, loss)
    return FORMS[to](Request(model, schedule, EagerStep(schedule, joint)))
