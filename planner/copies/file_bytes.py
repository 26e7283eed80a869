"""The bytes of tensors in a file, written and read whole."""

from __future__ import annotations

import os
from typing import IO

import torch


def write_bytes(file: IO[bytes], offset: int, memory: torch.Tensor) -> None:
    """Write ``memory``, uint8 on the CPU, to the file at ``offset``.

    Raises:
        OSError: it cannot be written.
    """
    view = memoryview(memory.numpy())  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        done += os.pwrite(file.fileno(), view[done:], offset + done)


def read_bytes(file: IO[bytes], offset: int, memory: torch.Tensor) -> None:
    """Fill ``memory``, uint8 on the CPU, with the bytes of the file at ``offset``.

    Raises:
        OSError: they cannot be read, or the file is shorter.
    """
    view = memoryview(memory.numpy())  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        count = os.preadv(file.fileno(), [view[done:]], offset + done)
        if not count:
            raise OSError(f"the file ends at {offset + done:,} bytes")
        done += count
