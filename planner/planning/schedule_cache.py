"""The schedules that this process has found, by their graph, and the leanest form of each step.

A later plan of the same graph starts from them. So the minimum that an error names succeeds as the next budget, and a larger
budget never gives a slower plan. A step on inputs of other sizes often runs the same ops, and then the latest ones run it too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from remat_planner.schedules import Graph, InvalidScheduleError, simulate

_MOST_GRAPHS = 16
_MOST_SCHEDULES = 32  # of one graph
_MOST_OF_OTHER_SIZES = 4

Steps = tuple[int, ...]
Form = Mapping[str, Any]
"""The arguments of ``leaner`` that make a form of a step."""

_Key = tuple[object, ...]
_Cache = OrderedDict[_Key, OrderedDict[Steps, None]]

_known: _Cache = OrderedDict()
_of_any_size: _Cache = OrderedDict()
_leanest: OrderedDict[_Key, Form] = OrderedDict()


def known_schedules(graph: Graph) -> tuple[Steps, ...]:
    """The schedules of a graph, oldest first.

    For a graph with pools these are the schedules without copies, then those with copies that the budgets of its pools allow.
    """
    known = tuple(_known.get(_key(graph, graph.fingerprint), ()))
    if not graph.pools:
        return known
    return (*known_schedules(graph.without_transfers), *(steps for steps in known if _runs(graph, steps)))


def schedules_of_other_sizes(graph: Graph) -> tuple[Steps, ...]:
    """The latest schedules of graphs with the same ops and other sizes, oldest first."""
    known = known_schedules(graph)
    of_any_size = _of_any_size.get(_key(graph, graph.structure), ())
    return tuple(steps for steps in of_any_size if steps not in known and (not graph.pools or _runs(graph, steps)))


def remember_schedule(graph: Graph, steps: Steps) -> None:
    """Keep a schedule of a graph, unless it is empty. The oldest schedules and graphs are forgotten first."""
    if steps:
        _remember(_known, _key(graph, graph.fingerprint), steps, _MOST_SCHEDULES)
        _remember(_of_any_size, _key(graph, graph.structure), steps, _MOST_OF_OTHER_SIZES)


def leanest_form(graph: Graph) -> Form | None:
    """The form in which a step needed least where no schedule of it was found; ``graph`` is that of eager's form."""
    return _leanest.get(_key(graph, graph.fingerprint))


def remember_leanest(graph: Graph, form: Form) -> None:
    """Keep what ``leanest_form`` gives."""
    _leanest[_key(graph, graph.fingerprint)] = form
    while len(_leanest) > _MOST_GRAPHS:
        _leanest.popitem(last=False)


def _key(graph: Graph, digest: str) -> _Key:
    """What decides which step is which: the pools and what is copied number the transfers."""
    return (digest, graph.copied, *(pool.name for pool in graph.pools))


def _runs(graph: Graph, steps: Steps) -> bool:
    try:
        simulate(graph, steps)
    except InvalidScheduleError:
        return False
    return True


def _remember(cache: _Cache, key: _Key, steps: Steps, most: int) -> None:
    schedules = cache.setdefault(key, OrderedDict())
    cache.move_to_end(key)
    schedules[steps] = None
    schedules.move_to_end(steps)
    while len(schedules) > most:
        schedules.popitem(last=False)
    while len(cache) > _MOST_GRAPHS:
        cache.popitem(last=False)
