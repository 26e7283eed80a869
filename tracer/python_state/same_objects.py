"""Whether many mappings have the objects in them that they had, and tensors of the same forms, asked in one go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import getitem
from typing import Any

from remat_planner.tracer.python_state.tensor_entries import form_of, has_form


class SameObjects:
    """Compares the number of entries of each mapping, and the identity of the objects under some of its keys.

    All of it runs in C, at some 60 ns an entry. Of tensors the form is compared: others may be there in every step.

    Args:
        named: mappings, each with the keys that matter.
        ordered: those of them whose order matters too.
        absent: keys that must not come into a mapping, which another entry may have left meanwhile.
    """

    def __init__(
        self,
        named: Iterable[tuple[Mapping[Any, Any], list[Any]]],
        ordered: Iterable[Mapping[Any, Any]] = (),
        absent: Iterable[tuple[frozenset[Any], Mapping[Any, Any]]] = (),
    ) -> None:
        self._mappings: list[Mapping[Any, Any]] = []
        self._owners: list[Mapping[Any, Any]] = []
        self._keys: list[Any] = []
        self._tensor_owners: list[Mapping[Any, Any]] = []
        self._tensor_keys: list[Any] = []
        for mapping, keys in named:
            self._mappings.append(mapping)
            chosen = [key for key in keys if not has_form(mapping[key])]
            self._owners += [mapping] * len(chosen)
            self._keys += chosen
            tensors = [key for key in keys if has_form(mapping[key])]
            self._tensor_owners += [mapping] * len(tensors)
            self._tensor_keys += tensors
        self._ordered = list(ordered)
        self._orders = list(map(tuple, self._ordered))
        absent = list(absent)
        self._absent, self._without = [keys for keys, _ in absent], [mapping for _, mapping in absent]
        self._sizes = list(map(len, self._mappings))
        self._objects = list(map(getitem, self._owners, self._keys))  # alive, so that no other object gets their identity
        self._identities = list(map(id, self._objects))
        self._forms = list(map(form_of, map(getitem, self._tensor_owners, self._tensor_keys)))

    def __call__(self) -> bool:
        """Whether nothing differs; False says: look closer."""
        try:
            found = list(map(id, map(getitem, self._owners, self._keys)))
            forms = list(map(form_of, map(getitem, self._tensor_owners, self._tensor_keys)))
        except (KeyError, AttributeError, RuntimeError):
            return False
        if found != self._identities or forms != self._forms:
            return False
        if list(map(len, self._mappings)) != self._sizes or list(map(tuple, self._ordered)) != self._orders:
            return False
        return all(map(frozenset.isdisjoint, self._absent, self._without))
