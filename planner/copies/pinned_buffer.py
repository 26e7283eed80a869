"""Pinned host memory, and a buffer of it that takes no more than it is asked for.

PyTorch's allocator of pinned memory rounds each request up to a power of two, nearly twice the bytes at worst. So the buffer
consists of pieces that are powers of two, and a copy may lie in several of them.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

import torch

from remat_planner.planner.errors import OffloadError
from remat_planner.schedules import PoolName

_PAGE = 4096
"""Bytes of the smallest piece."""


class PinnedBuffer:
    """A buffer of ``size`` bytes, rounded up to whole pages.

    Args:
        size: bytes.
        allocate: a uint8 tensor of that many bytes.
    """

    def __init__(self, size: int, allocate: Callable[[int], torch.Tensor]) -> None:
        pages = -(-size // _PAGE)
        self._pieces = [allocate(_PAGE << bit) for bit in reversed(range(pages.bit_length())) if pages >> bit & 1]

    def parts(self, offset: int, size: int) -> list[torch.Tensor]:
        """The ``size`` bytes at ``offset``, as parts of the pieces that they lie in."""
        parts = []
        for piece in self._pieces:
            begin, end = max(offset, 0), min(offset + size, piece.nbytes)
            if begin < end:
                parts.append(piece[begin:end])
            offset -= piece.nbytes
        return parts


def start_copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy between a device and pinned memory on the current stream, without waiting for it."""
    target.copy_(source, non_blocking=True)


def pinned(size: int, pool: PoolName) -> torch.Tensor:
    """``size`` bytes of pinned host memory, for copies to ``pool``.

    Raises:
        OffloadError: the system refuses them.
    """
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        allowed = "without limit" if limit == resource.RLIM_INFINITY else f"up to {limit:,} bytes"
        raise OffloadError(
            f"the system refuses {size:,} bytes of pinned host memory ({error}); this process may lock memory {allowed} "
            f"(`ulimit -l`). Raise that limit or the memory of the container, or plan with a smaller budget for the {pool}",
            pool=pool,
            needed=size,
            available=None if limit == resource.RLIM_INFINITY else limit,
        ) from error
