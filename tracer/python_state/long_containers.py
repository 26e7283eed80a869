"""Quick comparisons of what is too long to look at all of it, one by one, before each step.

A list of numbers compares with a copy of itself at a nanosecond an item. Of a dictionary and of an array each comparison takes
some elements from all over and the next part of the whole, so that a change in one place may be seen a few steps late; how
many depends on the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

LONG = 10_000
"""Items of a container beyond which it is compared so."""
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None)})
_PART_OF_ITEMS = 20_000
_PART_OF_BYTES = 2**18
_SAMPLED = 4_096  # elements of an array


def same_items(target: list[Any]) -> Callable[[], bool]:
    """Whether the items of a long list are what they are now."""
    kept = list(target)
    if not _PLAIN.issuperset(map(type, kept)):
        identities = _identities(kept)
        return lambda: _identities(target) == identities and kept is not None
    return lambda: target == kept  # equal numbers that are others, as 1 and 1.0, lead to the same results


def _identities(items: Iterable[Any]) -> list[Any]:
    return list(map(id, items))


def same_parts_of_mapping(target: dict[Any, Any]) -> Callable[[], bool]:
    """Whether the next part of a long dictionary is what it is now; a part that is not is compared until it is."""
    kept_keys, kept = list(target), list(target.values())
    of_values = list if _PLAIN.issuperset(map(type, kept)) else _identities
    expected = of_values(kept)
    size = len(kept)
    start = 0  # of the next part
    keys: Iterator[Any] = iter(())
    values: Iterator[Any] = iter(())

    def is_same() -> bool:
        nonlocal start, values, keys
        if len(target) != size:
            return False
        if start == 0:
            values, keys = iter(target.values()), iter(target)
        part = slice(start, start + _PART_OF_ITEMS)
        try:
            same_keys = list(islice(keys, _PART_OF_ITEMS)) == kept_keys[part]
            is_kept = same_keys and of_values(islice(values, _PART_OF_ITEMS)) == expected[part]
        except RuntimeError:  # items came and went since the last comparison
            is_kept = False
        if is_kept:
            start = part.stop if part.stop < size else 0
        else:  # the next comparison begins with this part again
            values, keys = islice(target.values(), start, None), islice(target, start, None)
        return is_kept

    return is_same


def same_parts_of_array(target: np.ndarray[Any, Any]) -> Callable[[], bool]:
    """Whether a sample and the next part of the memory of a contiguous array are what they are now.

    A part that is not is compared until it is.
    """
    memory = np.asarray(target).reshape(-1).view(np.uint8)
    sample = memory[:: max(1, memory.size // _SAMPLED)]
    kept, kept_sample = memory.tobytes(), sample.tobytes()
    start = 0

    def is_same() -> bool:
        nonlocal start
        part = slice(start, start + _PART_OF_BYTES)
        if sample.tobytes() != kept_sample or memory[part].tobytes() != kept[part]:
            return False
        start = part.stop if part.stop < memory.size else 0
        return True

    return is_same
