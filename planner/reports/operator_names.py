"""What reports call operators and transfers."""

from __future__ import annotations

from typing import NamedTuple

from remat_planner.schedules import Op, Transfer


class ActionNames(NamedTuple):
    """What runs in a step: the operator or the transfer, its phase ("transfer" for that), its module and its line."""

    operator: str
    phase: str
    module: str
    line: str


def action_names(action: Op | Transfer) -> ActionNames:
    """What reports call ``action``."""
    if isinstance(action, Transfer):
        return ActionNames(action.name, "transfer", action.module, "")
    return ActionNames(short_operator(action.kind), action.phase, action.module, action.source)


def short_operator(kind: str) -> str:
    """ "addmm" for "aten.addmm.default"."""
    parts = kind.split(".")
    return parts[1] if len(parts) == 3 else kind
