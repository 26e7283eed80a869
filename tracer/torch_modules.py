"""The private names of PyTorch around conversions of modules: ``Module.to``, ``float``, ``half``, ``cpu``.

``tests/tracer/test_torch_modules.py`` tries each by itself.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["conversions_watched", "stands_for"]


def stands_for(stand_in: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """``stand_in``, with the attributes of ``original``, and a parameter or a buffer for ``isinstance`` where that is one."""
    if not isinstance(original, FakeTensor):
        for name, value in vars(original).items():
            vars(stand_in).setdefault(name, value)
    for kind, flag in ((nn.Parameter, "_is_param"), (nn.Buffer, "_is_buffer")):
        if isinstance(original, kind):
            setattr(stand_in, flag, True)
    return stand_in


@contextmanager
def conversions_watched(converted: Callable[[torch.Tensor, FrameType], None]) -> Iterator[None]:
    """Have conversions of modules leave fake parameters that they do not change as they are, in this thread.

    PyTorch exchanges the parameter for another object if it is a fake. ``converted(parameter, frame)`` is called where a
    conversion makes another tensor of it.
    """
    module: Any = nn.Module
    original = module._apply
    thread = threading.get_ident()

    def apply(self: Any, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        if threading.get_ident() != thread:
            return original(self, function, recurse)
        if recurse:
            for child in self.children():
                child._apply(function)
        parameters = self._parameters
        for parameter in [parameter for parameter in parameters.values() if isinstance(parameter, FakeTensor)]:
            with torch.no_grad():
                result = function(parameter)
            if result is not parameter:
                converted(parameter, sys._getframe(1))
        others = {name: parameter for name, parameter in parameters.items() if not isinstance(parameter, FakeTensor)}
        vars(self)["_parameters"] = others
        try:
            original(self, function, False)
        finally:
            vars(self)["_parameters"] = parameters
        for name, parameter in others.items():
            if parameter is not parameters[name]:
                parameters[name] = parameter
        return self

    module._apply = apply
    try:
        yield
    finally:
        module._apply = original
