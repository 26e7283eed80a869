"""The forms of call that a schedule is planned for: finding the one of a call, and putting a form into words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning.signatures import input_signature, mode_signature
from remat_planner.planner.planning.size_ranges import form_in_ranges
from remat_planner.schedules import Origin, RegionSchedule, Schedule, StaleScheduleError
from remat_planner.tracer.record import ambient_autocast

_MOST_MODES = 4  # in a message
_MOST_FORMS = 4


def planned_form(
    model: nn.Module, schedule: Schedule | RegionSchedule, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Schedule | RegionSchedule:
    """The schedule among the forms of ``schedule`` that is for ``model(*args, **kwargs)``.

    Raises:
        schedules.StaleScheduleError: none is; the message names the planned forms and that of the call.
    """
    call = Origin(inputs=input_signature(args, kwargs), modes=mode_signature(model), autocast=ambient_autocast())
    forms = schedule.forms if isinstance(schedule, Schedule) else (schedule,)
    for form in forms:
        if not form.origin.inputs or is_form_of(form.origin, call):  # one built by hand names no inputs
            return form
    if isinstance(schedule, Schedule) and (in_range := form_in_ranges(schedule, call, args, kwargs)) is not None:
        return in_range
    planned = [describe_call(form.origin) for form in forms[:_MOST_FORMS]]
    more = f" and {len(forms) - _MOST_FORMS} more forms" if len(forms) > _MOST_FORMS else ""
    advice = "plan again for this one" if isinstance(schedule, RegionSchedule) else "plan for both, plan(..., shapes=[...])"
    raise StaleScheduleError(
        f"the schedule is planned for {'; for '.join(planned)}{more}, and this call is {describe_call(call)}: give inputs of a "
        f"planned form, or {advice}",
        differences=(f"{'; '.join(planned)}{more} planned, {describe_call(call)} found",),
    )


def is_form_of(planned: Origin, call: Origin) -> bool:
    """Whether the inputs, the modes of the modules and the ambient autocast are the planned ones."""
    return (planned.inputs, planned.modes, planned.autocast) == (call.inputs, call.modes, call.autocast)


def describe_call(call: Origin) -> str:
    """The inputs, the modes of the modules and the ambient autocast in words."""
    modes = [f"{name or 'the model'} in {mode} mode" for name, mode in call.modes.items()]
    if len(modes) > _MOST_MODES:
        modes[_MOST_MODES - 1 :] = [f"{len(modes) - _MOST_MODES + 1} more modules in another mode than the one around them"]
    autocast = [f"autocast to {dtype} on {device}" for device, dtype in call.autocast.items()]
    return ", ".join([format_inputs(call.inputs) or "no inputs", *modes, *autocast])
