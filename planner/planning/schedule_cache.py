"""The schedules that this process has found, by the fingerprint of their graph.

A later plan of the same graph starts from them. So the minimum that an error names succeeds as the next budget, and a larger
budget never gives a slower plan.
"""

from __future__ import annotations

from collections import OrderedDict

_MOST_GRAPHS = 16
_MOST_SCHEDULES = 32  # of one graph

Steps = tuple[int, ...]

_known: OrderedDict[str, OrderedDict[Steps, None]] = OrderedDict()


def known_schedules(fingerprint: str) -> tuple[Steps, ...]:
    """The schedules of a graph, oldest first."""
    return tuple(_known.get(fingerprint, ()))


def remember_schedule(fingerprint: str, steps: Steps) -> None:
    """Keep a schedule of a graph, unless it is empty. The oldest schedules and graphs are forgotten first."""
    if not steps:
        return
    schedules = _known.setdefault(fingerprint, OrderedDict())
    _known.move_to_end(fingerprint)
    schedules[steps] = None
    schedules.move_to_end(steps)
    while len(schedules) > _MOST_SCHEDULES:
        schedules.popitem(last=False)
    while len(_known) > _MOST_GRAPHS:
        _known.popitem(last=False)
