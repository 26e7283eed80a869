"""What users say about an autograd.Function that runs as one operator."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

_pure: WeakKeyDictionary[type[torch.autograd.Function], bool] = WeakKeyDictionary()


def register_function(function: type[torch.autograd.Function], *, pure: bool) -> None:
    """Tell the planner whether an ``autograd.Function`` that launches its own kernels may run again.

    A Function that asks for addresses or reads values cannot run on tensors without memory. It is then one operator, which runs
    exactly once unless it is registered as pure. Other Functions are planned operator by operator, and need no registration.
    Registrations last for the process, and what may be recomputed is part of a schedule's fingerprint: register before
    planning, and again in the process that applies a saved schedule.

    Args:
        function: the class.
        pure: True where its forward only computes results from its arguments; False takes that back.

    Raises:
        TypeError: ``function`` is no class derived from ``torch.autograd.Function``.
    """
    if not (isinstance(function, type) and issubclass(function, torch.autograd.Function)):
        raise TypeError(f"register_function takes a class derived from torch.autograd.Function, not {function!r}")
    _pure[function] = pure


def is_registered_pure(function: type[torch.autograd.Function]) -> bool:
    """Whether ``function`` is registered as pure."""
    return _pure.get(function, False)
