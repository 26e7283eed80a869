"""Functions under ``functools.lru_cache``, whose results a recording must not leave behind: they may be fake tensors."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.python_state.holders import Holder, Names
from remat_planner.tracer.python_state.places import Place
from remat_planner.tracer.torch_private import is_fake

KIND = type(functools.cache(lambda: None))


@dataclass(frozen=True)
class _Seen:
    """A cache when it was last looked at.

    Attributes:
        counts: its hits and misses, which start at 0 when it is cleared.
        first: the first results in it; empty where it may have dropped these by itself.
        times: how often it was found cleared.
    """

    counts: tuple[int, int] = (0, 0)
    first: tuple[Any, ...] = ()
    times: int = 0


_FEW = 4
_seen: weakref.WeakKeyDictionary[Any, _Seen] = weakref.WeakKeyDictionary()


def _times_cleared(function: Any) -> int:
    """How often its cache was found cleared, and perhaps filled again."""
    hits, misses, most, size = function.cache_info()
    before = _seen.get(function, _Seen())
    first = () if size == most else _first_results(function)
    is_cleared = misses < before.counts[1] or hits < before.counts[0]
    is_cleared |= bool(before.first and first) and not any(one is other for one in before.first for other in first)
    _seen[function] = _Seen((hits, misses), first, before.times + is_cleared)
    return before.times + is_cleared


def _first_results(function: Any) -> tuple[Any, ...]:
    """The first results that it keeps."""
    return tuple(result for _, result in islice(_keys_and_results(function), _FEW))


def _keys_and_results(function: Any) -> Iterable[tuple[Any, Any]]:
    """What it keeps, which Python tells to its garbage collector alone.

    A cache without a limit is a dictionary; of another one keys and results follow each other. Its class comes first, and that
    of an entry after each in some versions of Python.
    """
    _, *things = gc.get_referents(function)
    if function.cache_info().maxsize is None:
        return things[0].items()
    things = [thing for thing in things if not (isinstance(thing, type) and thing.__name__ == "_lru_list_elem")]
    kept = things[: 2 * function.cache_info().currsize]
    return zip(kept[::2], kept[1::2], strict=True)


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

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:  # noqa: ARG002
        function, times = self.target, _times_cleared(self.target)
        return lambda: _times_cleared(function) == times

    @property
    def was_recorded(self) -> bool:
        """Whether a recording has called it since this object was made, and has left fakes among its results."""
        return self.target.cache_info().misses != self._misses and any(map(is_fake, self._results()))

    def finds_recorded(self, stays: Container[int]) -> bool:
        """Whether the next forward of eager would find results that a recording has left, instead of making them again.

        It makes them again where one forward makes more results than there is room for, and where a key has a tensor that each
        forward makes: its hash is its identity.

        Args:
            stays: the identities of the fakes that stand for tensors which are there in the next forward too.
        """
        misses, most = self.target.cache_info().misses - self._misses, self.target.cache_info().maxsize
        if most is not None and misses > most:
            return False
        return any(
            any(map(is_fake, pytree.tree_leaves(result)))
            and all(id(leaf) in stays for leaf in pytree.tree_leaves(key) if isinstance(leaf, torch.Tensor))
            for key, result in _keys_and_results(self.target)
        )

    def put_back(self, entries: dict[Any, Any]) -> None:  # noqa: ARG002 - what it holds does not change
        """Forget all results where some are fakes."""
        if self.was_recorded:
            self.target.cache_clear()
            _seen[self.target] = _Seen(times=_seen[self.target].times)  # nothing else changes with it

    def _results(self) -> list[Any]:
        """All leaves of the results that it keeps."""
        return pytree.tree_leaves([result for _, result in _keys_and_results(self.target)])
