"""Schedules found in this process, by the fingerprint of their graph.

A later question about the same graph starts from them: a budget that an error named as the least then succeeds, and more budget
never gives a slower plan.
"""

from __future__ import annotations

from collections import OrderedDict

_GRAPHS = 16
_SCHEDULES = 32

Steps = tuple[int, ...]

_found: OrderedDict[str, OrderedDict[Steps, None]] = OrderedDict()


def schedules_found(fingerprint: str) -> tuple[Steps, ...]:
    """What was found so far for a graph, oldest first."""
    return tuple(_found.get(fingerprint, ()))


def remember_found(fingerprint: str, steps: Steps) -> None:
    """Keep a schedule of a graph; the oldest schedules and graphs are forgotten first."""
    if not steps:
        return
    schedules = _found.setdefault(fingerprint, OrderedDict())
    _found.move_to_end(fingerprint)
    schedules[steps] = None
    schedules.move_to_end(steps)
    while len(schedules) > _SCHEDULES:
        schedules.popitem(last=False)
    while len(_found) > _GRAPHS:
        _found.popitem(last=False)
