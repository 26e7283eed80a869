"""How a planned model plans for inputs of another form, while it trains."""

from __future__ import annotations

from dataclasses import replace

from remat_planner.planner.planning.captures import settings_of
from remat_planner.planner.planning.settings import Settings
from remat_planner.schedules import Schedule

REPLAN_TIME_LIMIT = 2.0
"""Seconds that a search for a schedule may take while training waits for it."""

ENOUGH_FOR_REPLAN = 0.01
"""Extra time, as a fraction of the step, up to which a known schedule is taken without a search."""


def settings_for_replan(like: Schedule, time_limit: float = REPLAN_TIME_LIMIT, *, copies: bool = True) -> Settings:
    """The settings of ``like``, with at most ``time_limit`` seconds for solving; without pools unless ``copies`` can run."""
    return limited(settings_of(like), time_limit, copies=copies)


def limited(settings: Settings, time_limit: float, *, copies: bool) -> Settings:
    """``settings`` with at most ``time_limit`` seconds for solving; without pools unless ``copies`` can run."""
    return replace(settings, time_limit=min(settings.time_limit, time_limit), pools=settings.pools if copies else ())
