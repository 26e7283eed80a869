"""A second object for a module: same ``__dict__``, so same parameters, buffers and submodules, but hooks of its own."""

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


def module_view_of(
    model: nn.Module, body: Mapping[str, Any], *, slots: Sequence[str] = (), base: type[nn.Module] | None = None
) -> nn.Module:
    """An instance of a subclass of ``model``'s class, with the model's ``__dict__`` and no hooks.

    A call of it is ``nn.Module``'s: what ``__call__`` of the model's own class does around the forward is part of the model,
    which a view of the whole calls, and runs around the forward of a block.

    Args:
        model: the module.
        body: methods and properties of the subclass.
        slots: names of attributes that belong to the view alone; all others are in the shared ``__dict__``.
        base: the class to derive from, if not the model's own.
    """
    parent: Any = base or type(model)
    namespace = {
        "__slots__": (*slots, *_HOOKS),
        "__module__": parent.__module__,
        "__qualname__": parent.__qualname__,
        "__doc__": parent.__doc__,
    }
    view_class = type(parent)(parent.__name__, (parent,), namespace)
    methods = {"__call__": nn.Module.__call__, **body}
    for name, value in methods.items():  # only now, because a base may wrap what is in the namespace of a new subclass
        setattr(view_class, name, value)
    view: nn.Module = object.__new__(view_class)
    object.__setattr__(view, "__dict__", model.__dict__)
    for hooks in _HOOKS:
        object.__setattr__(view, hooks, OrderedDict())
    return view
