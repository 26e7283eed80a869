"""Outputs as flat lists: what ``torch.utils._pytree`` flattens, and the tensors inside objects that it takes for leaves.

A key-value cache or a plain dataclass in a model's output is a leaf to pytree, yet it holds tensors, which the planned module
has to fill with its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size, nn.Module)


@dataclass(frozen=True)
class TreeOfLeaves:
    """How to put an output together again from its flat list of leaves (``unflatten``).

    ``spec`` is pytree's; ``templates`` has, for each leaf of pytree that is an object with tensors inside, that object and how
    many tensors it holds (they are leaves here, in the order in which they are met).
    """

    spec: pytree.TreeSpec
    templates: tuple[tuple[Any, int] | None, ...]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The output with ``leaves`` in it; objects are shallow copies of the captured ones."""
        if not any(self.templates):
            return pytree.tree_unflatten(leaves, self.spec)
        rest = iter(leaves)
        filled = [
            next(rest) if template is None else _with_tensors_replaced(template[0], lambda _: next(rest))
            for template in self.templates
        ]
        return pytree.tree_unflatten(filled, self.spec)


def flatten(tree: Any) -> tuple[list[Any], TreeOfLeaves]:
    """The leaves of ``tree`` and how to put them together again."""
    found, spec = pytree.tree_flatten(tree)
    leaves: list[Any] = []
    templates: list[tuple[Any, int] | None] = []
    for leaf in found:
        inside = [] if isinstance(leaf, torch.Tensor) else tensors_inside(leaf)
        leaves += inside or [leaf]
        templates.append((leaf, len(inside)) if inside else None)
    return leaves, TreeOfLeaves(spec, tuple(templates))


def tensors_inside(thing: Any) -> list[torch.Tensor]:
    """The tensors that an object holds in attributes, lists, tuples and dictionaries, in the order in which they are met."""
    found: list[torch.Tensor] = []

    def collect(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    _with_tensors_replaced(thing, collect)
    return found


def _with_tensors_replaced(thing: Any, replace: Callable[[torch.Tensor], Any], above: frozenset[int] = frozenset()) -> Any:
    """``thing`` with each tensor replaced; what holds no tensor is shared, what does is copied."""
    if isinstance(thing, torch.Tensor):
        return replace(thing)
    if isinstance(thing, _PLAIN) or callable(thing) or id(thing) in above:
        return thing
    above = above | {id(thing)}
    if isinstance(thing, (list, tuple, set, frozenset)):
        items = [_with_tensors_replaced(item, replace, above) for item in thing]
        if all(new is old for new, old in zip(items, thing, strict=True)):
            return thing
        return type(thing)(*items) if hasattr(thing, "_fields") else type(thing)(items)
    values = {k: _with_tensors_replaced(v, replace, above) for k, v in thing.items()} if isinstance(thing, dict) else {}
    attributes = {k: _with_tensors_replaced(v, replace, above) for k, v in getattr(thing, "__dict__", {}).items()}
    new_values = {k: v for k, v in values.items() if v is not thing[k]}
    new_attributes = {k: v for k, v in attributes.items() if v is not thing.__dict__[k]}
    if not new_values and not new_attributes:
        return thing
    copied = copy.copy(thing)
    if new_values:
        copied.update(new_values)
    if new_attributes:
        copied.__dict__.update(new_attributes)
    return copied
