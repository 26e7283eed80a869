"""Python's garbage collector, which goes through all objects again and again while a recording makes hundreds of thousands."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_left() -> Iterator[None]:
    """Collect no garbage inside; what was allocated is freed as usual when nothing refers to it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
