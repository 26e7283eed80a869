"""From some objects to all that can be reached from them."""

from __future__ import annotations

import array
import contextvars
import ctypes
import functools
import io
import logging
import random
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from remat_planner.tracer.python_state.attributes import (
    Attributes,
    AttributesAndSlots,
    ClassAttributes,
    Function,
    ModuleAttributes,
    Namespace,
    Slots,
    ThreadLocal,
    UnregisteredModule,
    slots_of,
)
from remat_planner.tracer.python_state.cached_function import KIND as CACHED_FUNCTION
from remat_planner.tracer.python_state.cached_function import CachedFunction
from remat_planner.tracer.python_state.containers import (
    ContextVariable,
    Fixed,
    Mapping,
    MappingView,
    Memory,
    RandomGenerator,
    Sequence,
    SetOfItems,
    TextInMemory,
    WeakProxy,
    WeakReference,
    holder_of_array,
)
from remat_planner.tracer.python_state.executed_code import is_installed, is_users_code, is_users_module
from remat_planner.tracer.python_state.growing_list import GrowingList
from remat_planner.tracer.python_state.holders import PLAIN, Holder, Names
from remat_planner.tracer.python_state.library_objects import OWN_ATTRIBUTES, content_of, names_read
from remat_planner.tracer.python_state.logger_level import LoggerLevel
from remat_planner.tracer.python_state.places import PROXIES, Place

_MOST_HOLDERS = 50_000  # objects that one walk looks at, nearest first
_NUMBERS_IN_C = ctypes.Structure.__base__  # of all types of ctypes
_HOLD_NOTHING = frozenset({bool, int, float, complex, str, bytes, type(None)})
_NAMESPACES = ("types.SimpleNamespace", "argparse.Namespace")


def holder_of(place: Place, value: Any, names: Names) -> Holder | None:
    """``value`` as a holder; None where it is plain, a tensor, or opaque."""
    if type(value) in PROXIES:  # ``isinstance`` would take it for what it refers to
        return WeakProxy(place, value, names)
    if type(value) is GrowingList:
        value = value.target
    if isinstance(value, (*PLAIN, torch.Tensor)):
        return None
    if isinstance(value, nn.Module):
        return (ModuleAttributes if place.is_module else UnregisteredModule)(place, value, names)
    if (inner := content_of(value)) is not None:  # code that uses it does not name what it keeps its content in
        return holder_of(place.attribute(inner), getattr(value, inner), names)
    if type(value) in OWN_ATTRIBUTES:
        return Attributes(place, value, OWN_ATTRIBUTES[type(value)])
    if isinstance(value, types.FunctionType) and isinstance(vars(value).get("registry"), types.MappingProxyType):
        return holder_of(place.attribute("registry"), vars(value)["registry"], names)  # of ``functools.singledispatch``
    if type(value) is CACHED_FUNCTION:
        return CachedFunction(place, value, names)
    for kinds, holder in _BY_KIND:
        if isinstance(value, kinds):
            return holder(place, value, names)
    if isinstance(value, (list, deque)):
        return Sequence(place, value, names)
    if isinstance(value, types.FunctionType):
        return Function(place, value, names) if is_users_code(value.__code__, value.__globals__) else None
    if isinstance(value, types.ModuleType):
        if names is None or not is_users_module(value.__name__):
            return None
        return Namespace(place, vars(value), names, value.__name__, "attribute")
    if isinstance(value, type):
        return ClassAttributes(place, value, names) if _is_watched_class(value, names) else None
    kind = type(value)
    if _is_users_class(kind) or f"{kind.__module__}.{kind.__qualname__}" in _NAMESPACES:
        if hasattr(value, "__dict__"):
            return (AttributesAndSlots if slots_of(kind) else Attributes)(place, value, names)
        if slots_of(kind):
            return Slots(place, value, names)
    if names is None or (read := names_read(value, names)) is None:
        return None
    return Attributes(place, value, read)


def _is_watched_class(kind: type, names: Names) -> bool:
    """Whether to look at the attributes of a class: of installed packages' only at those that code names."""
    if not is_users_module(kind.__module__):
        return False
    return names is not None or not is_installed(str(getattr(sys.modules.get(kind.__module__), "__file__", "")))


def _is_users_class(kind: type) -> bool:
    """Whether a class can be the model's. Those made at run time name the standard library as their module.

    So do the classes of ``dataclasses.make_dataclass``, and those that a metaclass of ``abc`` derives.
    """
    if kind.__module__ == "types":
        return not hasattr(types, kind.__name__)
    return any(is_users_module(base.__module__) for base in kind.__mro__)


_BY_KIND: tuple[tuple[Any, Any], ...] = (
    (dict, Mapping),
    (types.MappingProxyType, MappingView),
    (weakref.ref, WeakReference),
    (logging.Logger, LoggerLevel),
    (contextvars.ContextVar, ContextVariable),
    (threading.local, ThreadLocal),
    ((array.array, bytearray, memoryview, _NUMBERS_IN_C), Memory),
    ((io.StringIO, io.BytesIO), TextInMemory),
    ((tuple, types.MethodType, functools.partial), Fixed),
    ((set, frozenset), SetOfItems),
    (np.ndarray, holder_of_array),
    ((random.Random, np.random.RandomState, np.random.Generator), RandomGenerator),
)


def _has_attributes_beside(value: Any, holder: Holder | None) -> bool:
    """Whether ``value``, of a subclass of a number, text or container, has attributes, which are no part of its content."""
    if not type(value).__dictoffset__ or isinstance(holder, _WITH_ALL_ATTRIBUTES) or isinstance(value, Holder):
        return False
    if isinstance(value, np.ndarray):  # the mask of a masked one
        return True
    return _is_users_class(type(value)) and (holder is not None or isinstance(value, PLAIN))


_WITH_ALL_ATTRIBUTES = (Attributes, ClassAttributes, Function, Namespace, RandomGenerator)


def walk(
    starts: Iterable[tuple[Place, Any]],
    names: Names,
    seen: set[int] | None = None,
    labels: dict[str, int] | None = None,
) -> Iterator[Holder]:
    """The holders that can be reached from ``starts``, nearest first, each once.

    Where names are given, the contents of what an installed package holds in its globals (registries, caches) are left out:
    they change without a meaning for the forward, as when another model is built.

    Args:
        starts: objects, and where they are.
        names: the names that matter of attributes and globals; None for all.
        seen: identities of objects that are left out; those that are met are added.
        labels: how many objects were met under each label; variables of two functions with one name have one. Theirs are
            numbered.
    """
    labels = {} if labels is None else labels
    seen = set() if seen is None else seen
    queue = deque(starts)
    left = _MOST_HOLDERS
    while queue and left:
        place, value = queue.popleft()
        if id(value) in seen:
            continue
        holder = value if isinstance(value, Holder) else holder_of(place, value, names)
        if _has_attributes_beside(value, holder):
            queue.append((place.attribute("__dict__"), vars(value)))
        if holder is None or id(holder.target) in seen:
            continue
        value = holder.target
        seen.add(id(value))
        label = holder.place.label
        labels[label] = labels.get(label, 0) + 1
        if labels[label] > 1:
            holder.place = replace(holder.place, label=f"{label} ({labels[label]})")
        left -= 1
        yield holder
        if holder.has_places and not (names is not None and isinstance(holder, Namespace) and holder.is_of_package):
            queue.extend((holder.place_of(k), v) for k, v in holder.entries().items() if type(v) not in _HOLD_NOTHING)
        if isinstance(holder, (Attributes, Slots, ClassAttributes)):  # of a class, those of its metaclass
            queue.extend((Place(f"class {base.__qualname__}", base, "object"), base) for base in type(value).__mro__[:-1])
