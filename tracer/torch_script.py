"""The private names of PyTorch around TorchScript: its calls, and the tensors of its modules.

``tests/tracer/test_torch_script.py`` tries each by itself.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

__all__ = [
    "call_script",
    "digest_of",
    "owner_of",
    "qualified_name",
    "readable",
    "script_slots",
    "scripted",
    "scripts_called_by",
]

_CALLABLES: dict[type, Callable[..., Any]] = {kind: kind.__call__ for kind in (torch._C.ScriptFunction, torch._C.ScriptMethod)}
"""The classes of all that runs TorchScript when it is called, and how."""
_MANGLED = r"___torch_mangle_\d+\."
"""Part of a name that counts the classes of one name that the process has scripted."""


@contextmanager
def scripts_called_by(call: Callable[..., Any]) -> Iterator[None]:
    """Call ``call(script, *args)`` in the place of ``script(*args)`` for each scripted function and method, in this thread."""
    thread = threading.get_ident()

    def called(script: Any, *args: Any, **kwargs: Any) -> Any:
        return (call if threading.get_ident() == thread else call_script)(script, *args, **kwargs)

    for kind in _CALLABLES:
        kind.__call__ = called  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, original in _CALLABLES.items():
            kind.__call__ = original  # type: ignore[method-assign]


def call_script(script: Any, *args: Any, **kwargs: Any) -> Any:
    """What ``script(*args)`` returns, whatever ``scripts_called_by`` says."""
    return _CALLABLES[type(script)](script, *args, **kwargs)


def scripted(module: nn.Module) -> Any | None:
    """The scripted or traced module behind ``module``; None where it is plain Python."""
    return module._c if isinstance(module, torch.jit.ScriptModule) else None


def owner_of(script: Any) -> Any | None:
    """The scripted module whose method ``script`` is; None for a function."""
    return script.owner if isinstance(script, torch._C.ScriptMethod) else None


def script_slots(owner: Any, *, deep: bool = True) -> Iterator[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]:
    """The parameters and buffers of a scripted module, each with a function that puts another tensor in its place.

    Args:
        owner: the scripted module.
        deep: with those of the modules in it.
    """
    kinds: tuple[Any, ...] = (torch._C.ParameterDict, torch._C.BufferDict)
    for slots in (kind(owner) for kind in kinds):
        for name, tensor in slots.items():
            if isinstance(tensor, torch.Tensor):
                yield tensor, partial(owner.setattr, name)
    if deep:
        for _, child in torch._C.ModuleDict(owner).items():
            yield from script_slots(child)


def qualified_name(script: Any) -> str:
    """The name of a scripted function or method with its module, the same in every process."""
    owner = owner_of(script)
    name = script.qualified_name if owner is None else f"{owner.qualified_name}.{script.name}"
    return re.sub(_MANGLED, "", name).removeprefix("__torch__.")


def digest_of(script: Any) -> str:
    """Twelve digits that differ for other code, the same in every process."""
    return hashlib.sha256(re.sub(rf"{_MANGLED}|#.*", "", str(script.inlined_graph)).encode()).hexdigest()[:12]


class ReadableSlots:
    """The parameters, buffers or modules of a scripted module under the methods of a dictionary that a planned call needs."""

    def __init__(self, slots: Any) -> None:
        self._slots = slots

    def get(self, key: str) -> torch.Tensor | None:
        """What is in the slot ``key``; None where there is none."""
        return self[key] if key in self._slots else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots.keys())

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor: torch.Tensor = self._slots[key]
        return tensor


def readable(slots: Any) -> Mapping[str, Any]:
    """A module's ``_parameters``, ``_buffers`` or ``_modules`` as a mapping; those of a scripted one are none."""
    return slots if hasattr(slots, "get") else ReadableSlots(slots)  # type: ignore[return-value]
