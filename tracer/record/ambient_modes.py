"""TODO: ."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch


def python_random_state() -> tuple[Any, Any]:
    """What the generators of Python and of NumPy will draw next, in a form that can be compared."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return random.getstate(), (numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"], numpy_state["has_gauss"])


def ambient_autocast() -> dict[str, str]:
    """What the ``torch.autocast`` that is on here casts to, in words, by type of device; none where it is off."""
    # Without the cache, a weight that is read twice is cast twice, and its gradients are summed after the cast, not before.
    cast = "" if torch.is_autocast_cache_enabled() else ", without its cache"
    return {
        device: f"{str(torch.get_autocast_dtype(device)).removeprefix('torch.')}{cast}"
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    }


@contextmanager
def without_autocast() -> Iterator[None]:
    """Off for every device, whatever the caller has on."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the generators of Python, numpy and torch (every initialised device) as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
