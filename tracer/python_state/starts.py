"""What a call of a model can reach without a global: modules, their classes as far as they are the user's, arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.python_state.attributes import ClassAttributes
from remat_planner.tracer.python_state.executed_code import is_users_module
from remat_planner.tracer.python_state.holders import PLAIN, Holder
from remat_planner.tracer.python_state.hooks_on_modules import hook_starts
from remat_planner.tracer.python_state.places import Place


def starts_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[Place, Any]]:
    """What ``model(*args, **kwargs)`` can reach, for a ``Snapshot``."""
    modules = [(Place(path, path, "module"), module) for path, module in model.named_modules()]
    classes = _classes([module for _, module in modules])
    return [*modules, *classes, *hook_starts(model), *argument_starts(args, kwargs)]


def argument_starts(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[Place, Any]]:
    """The arguments of a call alone."""
    return [(Place("args", "args", "arguments"), args), (Place("kwargs", "kwargs", "arguments"), kwargs)]


def objects_in_arguments(holders: Iterable[Holder]) -> dict[int, Place]:
    """Where the objects are that arguments hold, by identity; ``holders`` are those of a ``Snapshot``."""
    found: dict[int, Place] = {}
    for holder in holders:
        if holder.place.kind == "arguments" and holder.has_places:
            for key, value in holder.entries().items():
                if not isinstance(value, (*PLAIN, torch.Tensor)):
                    found.setdefault(id(value), holder.place_of(key))
    return found


def _classes(modules: list[nn.Module]) -> list[tuple[Place, Any]]:
    kinds = dict.fromkeys(kind for module in modules for kind in type(module).__mro__ if is_users_module(kind.__module__))
    places = [Place(f"class {kind.__qualname__}", kind, "object") for kind in kinds]  # labelled as ``walk`` does
    return [(place, ClassAttributes(place, place.start, None)) for place in places]
