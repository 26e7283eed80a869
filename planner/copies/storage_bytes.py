"""Tensors as bytes of their storage, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from remat_planner.planner.errors import OffloadError
from remat_planner.schedules import PoolName


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The whole storage of ``tensor`` as a uint8 tensor of shape (bytes,)."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage, 0, (storage.nbytes(),), (1,))


def bytes_to_copy(tensors: Sequence[torch.Tensor], planned: int, pool: PoolName) -> torch.Tensor:
    """The storage that ``tensors`` lie in, as ``bytes_of``, which has to fit into ``planned`` bytes of the pool.

    Raises:
        OffloadError: it is larger.
    """
    memory = bytes_of(tensors[0])
    if memory.nbytes > planned:
        raise OffloadError(
            f"an activation has {memory.nbytes:,} bytes where the plan has {planned:,} on the {pool}: plan again on this "
            "device",
            pool=pool,
            needed=memory.nbytes,
            available=planned,
        )
    return memory


class TensorForm(NamedTuple):
    """How a tensor lies in its storage."""

    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorForm:
        """The form of ``tensor``."""
        return cls(tensor.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def on(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor of this form on the storage of ``memory``."""
        empty = torch.empty(0, dtype=self.dtype, device=memory.device)
        return empty.set_(memory.untyped_storage(), self.offset, self.size, self.stride)


def forms_of(tensors: Sequence[torch.Tensor]) -> tuple[TensorForm, ...]:
    """The form of each of ``tensors``."""
    return tuple(map(TensorForm.of, tensors))
