"""Whether many mappings have the objects in them that they had, asked in one go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import getitem
from typing import Any

import torch


class SameObjects:
    """Compares the number of entries of each mapping, and the identity of the objects under some of its keys.

    All of it runs in C, at some 60 ns an entry. Tensors are left out: their identity changes with every step, and what is read
    of them is in the graph.

    Args:
        named: mappings, each with the keys that matter.
    """

    def __init__(self, named: Iterable[tuple[Mapping[Any, Any], list[Any]]]) -> None:
        self._mappings: list[Mapping[Any, Any]] = []
        self._owners: list[Mapping[Any, Any]] = []
        self._keys: list[Any] = []
        for mapping, keys in named:
            self._mappings.append(mapping)
            chosen = [key for key in keys if not isinstance(mapping[key], torch.Tensor)]
            self._owners += [mapping] * len(chosen)
            self._keys += chosen
        self._sizes = list(map(len, self._mappings))
        self._objects = list(map(getitem, self._owners, self._keys))  # alive, so that no other object gets their identity
        self._identities = list(map(id, self._objects))

    def __call__(self) -> bool:
        """Whether nothing differs; False says: look closer."""
        try:
            found = list(map(id, map(getitem, self._owners, self._keys)))
        except KeyError:
            return False
        return found == self._identities and list(map(len, self._mappings)) == self._sizes
