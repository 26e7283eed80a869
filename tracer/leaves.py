"""What lies in the arguments and results of operators: lists, tuples and dicts, some inside others, and nothing else.

A recording asks this several times of each operator; ``torch.utils._pytree``, which knows every container, takes ten times as
long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch


def leaves_of(value: Any) -> list[Any]:
    """What lies in ``value``, in order; a dict's values in the order of its keys' first appearance."""
    found: list[Any] = []
    _collect(value, found)
    return found


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors among ``leaves_of(value)``."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, torch.Tensor)]


def with_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """``value`` with ``function(leaf)`` in the place of each leaf, in lists, tuples and dicts of Python's own."""
    if isinstance(value, (list, tuple)):
        mapped = [with_leaves(item, function) for item in value]
        return mapped if isinstance(value, list) else tuple(mapped)
    if isinstance(value, dict):
        return {key: with_leaves(item, function) for key, item in value.items()}
    return function(value)


def hashable_form(value: Any, function: Callable[[Any], Hashable]) -> Hashable:
    """Equal for two values of one form that have equal ``function(leaf)`` in the same places."""
    if isinstance(value, (list, tuple)):
        return list if isinstance(value, list) else tuple, *[hashable_form(item, function) for item in value]
    if isinstance(value, dict):
        return dict, *[(key, hashable_form(item, function)) for key, item in value.items()]
    return function(value)


def _collect(value: Any, found: list[Any]) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    else:
        found.append(value)
