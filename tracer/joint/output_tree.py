"""Outputs as flat lists of leaves, including the tensors inside objects that pytree does not open.

For ``torch.utils._pytree`` a key-value cache or a plain dataclass in a model's output is one leaf. It holds tensors all the
same, and the planned module has to return it with its own tensors inside.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint.arguments_tree import flatten_tree
from remat_planner.tracer.python_state import ReadNumber, is_users_module, slots_of

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
"""Numbers that follow from sizes, while these are symbols."""
_COMPUTED = (torch.Tensor, ReadNumber)
"""What each planned call computes: tensors, and numbers that are read from tensors."""
_HOLDS_NO_TENSOR = (
    type(None),
    bool,
    int,
    float,
    complex,
    *_SYMBOLS,
    str,
    bytes,
    type,
    torch.dtype,
    torch.device,
    torch.Size,
    ModuleType,
    nn.Module,  # its tensors are state, not output
    *(FunctionType, BuiltinFunctionType, MethodType, functools.partial),  # other objects may be callable and hold tensors
)


@dataclass(frozen=True)
class TreeOfLeaves:
    """The structure of an output without its leaves.

    Attributes:
        spec: pytree's structure.
        templates: for each of pytree's leaves None, or, where it is an object with tensors inside or one that the forward
            makes anew, that object and the number of its tensors (leaves here, in the order in which they are met).
        fresh: identities of the objects and containers in templates that the forward makes anew.
    """

    spec: pytree.TreeSpec
    templates: tuple[tuple[Any, int] | None, ...]
    fresh: frozenset[int] = frozenset()

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The output with ``leaves`` in it. Objects with tensors and ``fresh`` ones are shallow copies of the captured ones."""
        if not any(self.templates):
            return pytree.tree_unflatten(leaves, self.spec)
        rest = iter(leaves)
        filled = [
            next(rest)
            if template is None
            else _with_tensors_replaced(template[0], lambda _: next(rest), _holding(template[0], self.fresh), self.fresh)
            for template in self.templates
        ]
        return pytree.tree_unflatten(filled, self.spec)


def flatten(
    tree: Any, whole: Container[int] = (), was_there: Callable[[Any], bool] = lambda _: True
) -> tuple[list[Any], TreeOfLeaves]:
    """The leaves of ``tree`` and its structure.

    Args:
        tree: an output, or what a forward leaves behind.
        whole: identities of objects that are leaves, whatever is in them.
        was_there: whether an object is not one that the forward makes anew each time.
    """
    pytree_leaves, spec = flatten_tree(tree)
    leaves: list[Any] = []
    templates: list[tuple[Any, int] | None] = []
    fresh: set[int] = set()
    for leaf in pytree_leaves:
        if isinstance(leaf, _COMPUTED) or id(leaf) in whole:
            leaves.append(leaf)
            templates.append(None)
            continue
        inside = tensors_inside(leaf)
        made = {id(thing) for thing in _parts(leaf) if _can_change(thing) and not was_there(thing)}
        fresh |= made
        is_whole = not inside and not made
        leaves += [leaf] if is_whole else inside
        templates.append(None if is_whole else (leaf, len(inside)))
    return leaves, TreeOfLeaves(spec, tuple(templates), frozenset(fresh))


def map_tensors(function: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """``tree`` with ``function`` applied to each tensor; objects with tensors inside are copied."""
    return pytree.tree_map(lambda leaf: _with_tensors_replaced(leaf, function, _holding(leaf)), tree)


def tensors_inside(thing: Any) -> list[torch.Tensor]:
    """The tensors that an object holds in attributes, lists, tuples and dictionaries, in the order in which they are met."""
    tensors: list[torch.Tensor] = []

    def collect(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    _with_tensors_replaced(thing, collect, _holding(thing))
    return tensors


def has_symbol_inside(thing: Any) -> bool:
    """Whether a container or an object, as deep as objects lie in objects, holds a number that follows from sizes."""
    return type(thing) not in _SYMBOLS and any(holds_inside(thing, kind) for kind in _SYMBOLS)


def holds_inside(thing: Any, kind: type) -> bool:
    """Whether ``thing`` is of this very ``kind``, or holds what is, as deep as objects lie in objects."""
    return type(thing) is kind or any(type(inner) is kind for part in _parts(thing) for inner in _inside(part))


def _parts(thing: Any) -> list[Any]:
    """``thing`` and the objects inside it."""
    found, entered = [thing], {id(thing)}
    for outer in found:
        for inner in _inside(outer):
            if id(inner) not in entered and not isinstance(inner, (torch.Tensor, *_HOLDS_NO_TENSOR)):
                entered.add(id(inner))
                found.append(inner)
    return found


def _can_change(thing: Any) -> bool:
    """Whether somebody who gets ``thing`` can change it: a container, or an object of a class of the user's."""
    return isinstance(thing, (list, dict, set, deque, bytearray, SimpleNamespace)) or (
        is_users_module(type(thing).__module__) and not isinstance(thing, (tuple, frozenset, *_HOLDS_NO_TENSOR))
    )


def _holding(thing: Any, fresh: frozenset[int] = frozenset()) -> set[int]:
    """Identities of the objects, ``thing`` and those inside it, from which a tensor or a ``fresh`` object is reached."""
    holders: dict[int, list[int]] = {id(thing): []}
    to_enter, found = [thing], []
    while to_enter:
        outer = to_enter.pop()
        for inner in _inside(outer):
            if isinstance(inner, _COMPUTED):
                found.append(id(outer))
            elif not isinstance(inner, _HOLDS_NO_TENSOR):
                if id(inner) not in holders:
                    to_enter.append(inner)
                holders.setdefault(id(inner), []).append(id(outer))
    found += fresh & holders.keys()
    holding: set[int] = set()
    while found:
        holder = found.pop()
        if holder not in holding:
            holding.add(holder)
            found += holders[holder]
    return holding


def _inside(thing: Any) -> list[Any]:
    """The items, values and attributes of an object."""
    if isinstance(thing, (*_COMPUTED, *_HOLDS_NO_TENSOR)):
        return []
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return list(thing)
    values = list(thing.values()) if isinstance(thing, dict) else []
    return [*values, *getattr(thing, "__dict__", {}).values(), *_slots(thing).values()]


def _slots(thing: Any) -> dict[str, Any]:
    return {key: getattr(thing, key) for key in slots_of(type(thing)) if hasattr(thing, key)}


def _with_tensors_replaced(
    thing: Any,
    replace: Callable[[Any], Any],
    holding: set[int],
    fresh: frozenset[int] = frozenset(),
    above: frozenset[int] = frozenset(),
) -> Any:
    """``thing`` with ``replace`` applied to each tensor; parts with tensors and ``fresh`` ones are copied, the others shared.

    ``holding`` is of the whole. ``above`` are the ids of the objects around ``thing``: an object inside itself is not entered
    again.
    """
    if isinstance(thing, _COMPUTED):
        return replace(thing)
    if id(thing) not in holding or id(thing) in above:
        return thing
    above = above | {id(thing)}
    if isinstance(thing, (list, tuple, set, frozenset)):
        items = [_with_tensors_replaced(item, replace, holding, fresh, above) for item in thing]
        if id(thing) not in fresh and all(new is old for new, old in zip(items, thing, strict=True)):
            return thing
        return type(thing)(*items) if hasattr(thing, "_fields") else type(thing)(items)
    if isinstance(thing, deque):
        return type(thing)((_with_tensors_replaced(item, replace, holding, fresh, above) for item in thing), thing.maxlen)
    values = _changed_entries(thing, replace, holding, fresh, above) if isinstance(thing, dict) else {}
    attributes = _changed_entries(getattr(thing, "__dict__", {}), replace, holding, fresh, above)
    slots = _changed_entries(_slots(thing), replace, holding, fresh, above)
    if not values and not attributes and not slots and id(thing) not in fresh:
        return thing
    copied = copy.copy(thing)
    if values:
        copied.update(values)
    if attributes:
        copied.__dict__.update(attributes)
    for key, value in slots.items():
        object.__setattr__(copied, key, value)  # also into a frozen dataclass
    return copied


def _changed_entries(
    entries: dict[Any, Any],
    replace: Callable[[Any], Any],
    holding: set[int],
    fresh: frozenset[int],
    above: frozenset[int],
) -> dict[Any, Any]:
    """The entries with a tensor inside, replaced."""
    replaced = {key: _with_tensors_replaced(value, replace, holding, fresh, above) for key, value in entries.items()}
    return {key: value for key, value in replaced.items() if value is not entries[key]}
