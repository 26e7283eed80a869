"""Where in Python state some tensors are: the places in which others can be put for the forward to find, and attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.python_state.attributes import Function
from remat_planner.tracer.python_state.executed_code import ExecutedCode
from remat_planner.tracer.python_state.holders import Holder, Names
from remat_planner.tracer.python_state.places import Place, Roots


def attributes_of_tensors(model: nn.Module, names: Names) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The attributes of parameters and buffers, where some are, of ``names`` (None: any), and their places."""
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and vars(tensor) and (names is None or not names.isdisjoint(vars(tensor))):
                yield Place(path, path, "module").attribute(name).attribute("__dict__"), vars(tensor)


def tensor_places(
    wanted: Callable[[torch.Tensor], bool], holders: Iterable[Holder], executed: ExecutedCode, roots: Roots
) -> list[tuple[torch.Tensor, tuple[Place, ...]]]:
    """The tensors that are ``wanted``, each with its places.

    Args:
        wanted: whether a tensor is looked for.
        holders: the objects in which it is looked for.
        executed: the code of the forward. Functions that it makes itself live for one call, so they have no places.
        roots: the model.
    """
    made = {id(code) for outer, _ in executed.calls for code in outer.co_consts if isinstance(code, CodeType)}
    places: dict[int, tuple[torch.Tensor, tuple[Place, ...]]] = {}
    for holder in holders:
        if not holder.has_places or (isinstance(holder, Function) and id(holder.target.__code__) in made):
            continue
        for key, value in holder.entries().items():
            if isinstance(value, torch.Tensor) and wanted(value):
                place = holder.place_of(key)
                if _can_hold_another(place, roots, value):
                    _, known = places.get(id(value), (value, ()))
                    places[id(value)] = value, (*known, place)
    return list(places.values())


def _can_hold_another(place: Place, roots: Roots, tensor: torch.Tensor) -> bool:
    try:
        found = place.find(roots)
        place.put(roots, tensor)()
    except (LookupError, TypeError, AttributeError):  # the arguments of a partial function
        return False
    return found is tensor
