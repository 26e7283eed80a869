"""The random generators of Python, NumPy and torch: comparing their states, and putting them back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def python_random_state() -> tuple[Any, Any]:
    """The states of Python's and NumPy's generators, in a form that can be compared."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return random.getstate(), (numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"], numpy_state["has_gauss"])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the generators of Python, NumPy and torch (of every initialised device) back at the end."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def default_generators() -> list[torch.Generator]:
    """The generators of torch from which operators draw that name none: of the CPU, and of each GPU once one is in use."""
    on_gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    return [torch.default_generator, *on_gpus]
