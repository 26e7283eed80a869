"""A buffer of pinned host memory that takes no more than it is asked for.

PyTorch's allocator of pinned memory rounds each request up to a power of two, nearly twice the bytes at worst. So the buffer
consists of pieces that are powers of two, and a copy may lie in several of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

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
