"""Another object of a module that shares its ``__dict__``: the same parameters, buffers and submodules, without its hooks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def twin_of(model: nn.Module, body: Mapping[str, Any], *, slots: Sequence[str] = (), base: Any = None) -> nn.Module:
    """An instance of a subclass of ``model``'s class with ``body`` in it, the very same ``__dict__`` and hooks of its own.

    ``slots`` name the attributes that the twin has to itself: unlike others they are not in the shared ``__dict__``. ``base``
    is a class in the place of the model's own.
    """
    base = base or type(model)
    own = {
        "__slots__": (*slots, *_HOOKS),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    twin_class = type(base)(base.__name__, (base,), own)
    for name, value in body.items():  # afterwards: a base may wrap what it finds in the body of a subclass
        setattr(twin_class, name, value)
    twin = object.__new__(twin_class)
    object.__setattr__(twin, "__dict__", model.__dict__)
    for hooks in _HOOKS:
        object.__setattr__(twin, hooks, OrderedDict())
    return twin
