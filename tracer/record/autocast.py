"""The ``torch.autocast`` that the caller has on: describing it, and turning it off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICE_TYPES = ("cpu", "cuda")


def ambient_autocast() -> dict[str, str]:
    """The dtype to which autocast casts, in words, for each type of device on which it is on."""
    # Without the cache, a weight that is read twice is cast twice, and its gradients are summed after the cast, not before.
    suffix = "" if torch.is_autocast_cache_enabled() else ", without its cache"
    return {
        device: f"{str(torch.get_autocast_dtype(device)).removeprefix('torch.')}{suffix}"
        for device in _DEVICE_TYPES
        if torch.is_autocast_enabled(device)
    }


@contextmanager
def without_autocast() -> Iterator[None]:
    """Turn autocast off for every device, whatever the caller has on."""
    with ExitStack() as stack:
        for device in _DEVICE_TYPES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
