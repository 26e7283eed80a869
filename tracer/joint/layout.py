"""How a tensor's elements lie in memory."""

from __future__ import annotations

import torch


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one block of memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape, strict=True) if si != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides (elements) of ``torch.empty_like(tensor)``: those of ``tensor``, without gaps and overlaps."""
    return tuple(torch.empty_like(tensor.detach(), device="meta").stride())
