"""Objects of PyTorch's and the standard library's classes that hold what a forward may read, but for containers.

Code that uses them does not name the attributes in which they keep it.
"""

from __future__ import annotations

import configparser
import functools
import logging
import queue
import string
import threading
from collections import ChainMap, UserDict, UserList, UserString
from collections.abc import Mapping
from concurrent.futures import Future
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from remat_planner.tracer.python_state.holders import Names

_CONTENT: tuple[tuple[tuple[type, ...], str], ...] = (
    ((UserDict, UserList, WeakKeyDictionary, WeakValueDictionary, WeakSet), "data"),
    (tuple(map(type, ({}.keys(), {}.values(), {}.items()))), "mapping"),
)
_OF_ANY_SUBCLASS: tuple[tuple[type, str], ...] = ((functools.singledispatchmethod, "dispatcher"), (SynchronizedBase, "_obj"))

OWN_ATTRIBUTES: Mapping[type, Names] = {
    **dict.fromkeys((queue.Queue, queue.LifoQueue, queue.PriorityQueue, ChainMap, UserString), None),
    **dict.fromkeys((configparser.ConfigParser, configparser.RawConfigParser), frozenset({"_sections", "_defaults"})),
    **dict.fromkeys((threading.Semaphore, threading.BoundedSemaphore), frozenset({"_value"})),
    logging.LoggerAdapter: frozenset({"logger"}),
    configparser.SectionProxy: frozenset({"_parser", "_name"}),
    threading.Event: frozenset({"_flag"}),
    threading.Barrier: frozenset({"_state"}),
    Future: frozenset({"_state", "_result"}),
    string.Template: frozenset({"template"}),
}
"""Classes of the standard library whose attributes matter, whatever names code uses; None for all of them."""

_WITH_STATE = ("torch.amp.", "torch.cuda.amp.", "torch.distributions.", "torch.optim.", "torch.utils.data.")
_READ_IN = {"get_last_lr": "_last_lr", "get_scale": "_scale"}
"""Attributes that methods of theirs read."""


def content_of(value: Any) -> str | None:
    """The attribute in which ``value`` keeps its content, where its class is one of those that pass for it."""
    for kinds, attribute in _CONTENT:
        if type(value) in kinds:
            return attribute
    return next((attribute for kind, attribute in _OF_ANY_SUBCLASS if isinstance(value, kind)), None)


def names_read(value: Any, names: frozenset[str]) -> frozenset[str] | None:
    """The attributes that code with these ``names`` may read of an object of PyTorch's with state; None for other objects.

    Such are optimizers, their schedules, scalers of gradients, distributions, datasets.
    """
    if not hasattr(value, "__dict__") or not f"{type(value).__module__}.".startswith(_WITH_STATE):
        return None
    return names | {attribute for method, attribute in _READ_IN.items() if method in names}
