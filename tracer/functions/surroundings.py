"""What surrounds the code of a Function in eager: autograd at hand but not recording, and autocast as the caller has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from remat_planner.tracer.torch_functions import autograd_at_hand

Autocast = tuple[tuple[str, torch.dtype, bool], ...]
"""Device type, dtype and whether casts are cached, for each type of device on which autocast is on."""

_DEVICE_TYPES = ("cpu", "cuda")


@contextmanager
def as_in_eager(autocast: Autocast) -> Iterator[None]:
    """Autograd may be switched on inside, and autocast is as it was where eager calls the code."""
    with autograd_at_hand(), torch.no_grad():
        enabled = [device for device in _DEVICE_TYPES if torch.is_autocast_enabled(device)]
        if not enabled and not autocast:
            yield
            return
        with ExitStack() as stack:
            for device in enabled:
                stack.enter_context(torch.autocast(device, enabled=False))
            for device, dtype, cached in autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype, cache_enabled=cached))
            yield


def current_autocast() -> Autocast:
    """What autocast does now."""
    return tuple(
        (device, torch.get_autocast_dtype(device), torch.is_autocast_cache_enabled())
        for device in _DEVICE_TYPES
        if torch.is_autocast_enabled(device)
    )
