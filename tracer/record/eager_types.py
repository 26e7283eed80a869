"""``type`` as the model's code sees it while a step is recorded: that of a fake is the one that eager's tensor has.

``type(x) is torch.Tensor`` would take another branch otherwise, and ``type(x).__name__`` would name another class.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.python_state import is_read_number
from remat_planner.tracer.torch_private import is_fake

_NUMBERS = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}
"""The type that a size has in eager, by that of a symbolic one."""


class _Kind(type):
    """What is asked of ``type`` besides calling it."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        if len(arguments) != 1 or options:
            return type(*arguments, **options)
        kind = type(arguments[0])
        if kind is type:
            return cls  # for ``type(x) is type``
        if isinstance(arguments[0], torch.Tensor) and is_fake(arguments[0]):
            return nn.Parameter if isinstance(arguments[0], nn.Parameter) else torch.Tensor
        return arguments[0].__class__ if is_read_number(arguments[0]) else _NUMBERS.get(kind, kind)

    def __instancecheck__(cls, thing: Any) -> bool:
        return isinstance(thing, type)

    def __subclasscheck__(cls, kind: Any) -> bool:
        return issubclass(kind, type)

    def __getitem__(cls, argument: Any) -> Any:
        return types.GenericAlias(type, argument)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is type

    def __hash__(cls) -> int:
        return hash(type)


EagerType: Any = _Kind("type", (type,), {"__module__": "builtins", "__qualname__": "type"})
