"""The schedules that this process has found, by their graph.

A later plan of the same graph starts from them. So the minimum that an error names succeeds as the next budget, and a larger
budget never gives a slower plan. A step on inputs of other sizes often runs the same ops, and then the latest ones run it too.
"""

from __future__ import annotations

from collections import OrderedDict

from remat_planner.schedules import Graph

_MOST_GRAPHS = 16
_MOST_SCHEDULES = 32  # of one graph
_MOST_OF_OTHER_SIZES = 4

Steps = tuple[int, ...]
_Cache = OrderedDict[str, OrderedDict[Steps, None]]

_known: _Cache = OrderedDict()
_of_any_size: _Cache = OrderedDict()


def known_schedules(graph: Graph) -> tuple[Steps, ...]:
    """The schedules of a graph, oldest first."""
    return tuple(_known.get(graph.fingerprint, ()))


def schedules_of_other_sizes(graph: Graph) -> tuple[Steps, ...]:
    """The latest schedules of graphs with the same ops and other sizes, oldest first."""
    return tuple(steps for steps in _of_any_size.get(graph.structure, ()) if steps not in _known.get(graph.fingerprint, ()))


def remember_schedule(graph: Graph, steps: Steps) -> None:
    """Keep a schedule of a graph, unless it is empty. The oldest schedules and graphs are forgotten first."""
    if steps:
        _remember(_known, graph.fingerprint, steps, _MOST_SCHEDULES)
        _remember(_of_any_size, graph.structure, steps, _MOST_OF_OTHER_SIZES)


def _remember(cache: _Cache, key: str, steps: Steps, most: int) -> None:
    schedules = cache.setdefault(key, OrderedDict())
    cache.move_to_end(key)
    schedules[steps] = None
    schedules.move_to_end(steps)
    while len(schedules) > most:
        schedules.popitem(last=False)
    while len(cache) > _MOST_GRAPHS:
        cache.popitem(last=False)
