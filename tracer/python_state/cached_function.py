"""Functions under ``functools.lru_cache``, whose results a recording must not leave behind: they may be fake tensors."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Container
from typing import Any

from torch.utils import _pytree as pytree

from remat_planner.tracer.python_state.holders import Holder, Names
from remat_planner.tracer.python_state.places import Place
from remat_planner.tracer.torch_private import is_fake

KIND = type(functools.cache(lambda: None))


_seen: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()


def _times_cleared(function: Any) -> int:
    """How often its cache was found cleared. One that was filled again before it was asked for is not seen."""
    misses, (before, times) = function.cache_info().misses, _seen.get(function, (0, 0))
    times += misses < before
    if (misses, times) != (before, times) or function not in _seen:
        _seen[function] = misses, times
    return times


class CachedFunction(Holder):
    """Such a function. The forward finds its results, or makes them for later ones."""

    is_view = True
    has_own_description = False

    def __init__(self, place: Place, target: Any, names: Names) -> None:
        super().__init__(place, target, names)
        self._misses = target.cache_info().misses

    def entries(self) -> dict[Any, Any]:
        return {"__wrapped__": self.target.__wrapped__, "cache_clear": _times_cleared(self.target)}

    def place_of(self, key: Any) -> Place:
        return self.place.attribute(key)

    def check(self, ignored: Container[Any] = ()) -> Callable[[], bool] | None:  # noqa: ARG002
        function, times = self.target, _times_cleared(self.target)
        return lambda: _times_cleared(function) == times

    @property
    def was_recorded(self) -> bool:
        """Whether a recording has called it since this object was made, and has left fakes among its results."""
        return self.target.cache_info().misses != self._misses and any(map(is_fake, self._results()))

    def put_back(self, entries: dict[Any, Any]) -> None:  # noqa: ARG002 - what it holds does not change
        """Forget all results where some are fakes."""
        if self.was_recorded:
            self.target.cache_clear()

    def _results(self) -> list[Any]:
        """All leaves of the results that it keeps, which Python tells to its garbage collector alone."""
        found = gc.get_referents(self.target)
        kept = [value for thing in found if type(thing) is dict for value in thing.values()]
        return pytree.tree_leaves([*found, *kept])
