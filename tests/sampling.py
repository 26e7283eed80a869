"""How much of the large families of cases runs: a sample by default, all of it with ``TESTS=all`` in the environment."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")
_ALL = os.environ.get("TESTS") == "all"
_FEWER = 5
_FEWER_OF_MANY = 4


def examples(number: int) -> settings:
    """Try ``number`` random examples, or a fifth of them, at least five.

    The fifth is the same each time, so that only a change can make the tests fail; ``TESTS=all`` draws others every time.
    """
    return settings(max_examples=number if _ALL else max(number // _FEWER, 5), derandomize=not _ALL, deadline=None)


def some(things: Sequence[T]) -> Sequence[T]:
    """``things``, or every fourth of them."""
    return things if _ALL else things[::_FEWER_OF_MANY]


def sampled(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """What runs and what is left out: of each slow test with several cases one runs.

    ``slow(all_cases=True)`` runs them all, and ``slow(on_request=True)`` none: they take longest, and others test most of it.
    """
    families: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    left_out: set[pytest.Item] = set()
    for item in items:
        slow = item.get_closest_marker("slow")
        if slow is None or _ALL:
            continue
        if slow.kwargs.get("on_request"):
            left_out.add(item)
        elif not slow.kwargs.get("all_cases"):
            families[item.nodeid.partition("[")[0]].append(item)
    for cases in families.values():
        run = cases[len(cases) // 2]
        left_out.update(case for case in cases if case is not run)
    return [item for item in items if item not in left_out], [item for item in items if item in left_out]
