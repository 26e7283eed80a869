"""Tensors as they are now: content, memory, gradient and whether they require one, to compare with and to go back to."""

from __future__ import annotations

import torch

from remat_planner.planner.distributed import local_part
from remat_planner.planner.measurement.comparison import same_bits
from remat_planner.planner.torch_private import set_version, version_of
from remat_planner.tracer.torch_private import is_fake


def kept_copy(tensor: torch.Tensor) -> torch.Tensor:
    """The content of ``tensor``, of a divided one the part on this rank, on the host: copies take no memory of the device."""
    copied = local_part(tensor).detach().clone()
    return copied if is_fake(copied) or copied.device.type == "meta" else copied.cpu()


class KeptTensor:
    """One tensor as it is now.

    Args:
        tensor: the tensor, which is kept alive.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self._content = kept_copy(tensor)
        self._memory = tensor.detach()
        self._requires_grad = tensor.requires_grad
        self._version = version_of(tensor)
        gradient = tensor.grad if tensor.is_leaf else None
        self._gradient = None if gradient is None else KeptTensor(gradient)

    @property
    def is_changed(self) -> bool:
        """Whether the content is another one now."""
        return not same_bits(local_part(self.tensor), self._content)

    @property
    def flag_is_changed(self) -> bool:
        """Whether the tensor began or ceased to require a gradient."""
        return self.tensor.requires_grad is not self._requires_grad

    def restart(self) -> None:
        """Go back to the content, in the memory where it was, without a gradient."""
        self._put_back_content()
        if self.tensor.is_leaf:
            if self.flag_is_changed:
                self.tensor.requires_grad_(self._requires_grad)
            self.tensor.grad = None

    def put_back(self) -> None:
        """Make everything what it was, for graphs that saved the tensor before too."""
        self.restart()
        if self._version is not None:
            set_version(self.tensor, self._version)
        if self._gradient is not None:
            self.tensor.grad = self._gradient.tensor
            self._gradient.put_back()

    def _put_back_content(self) -> None:
        with torch.no_grad():
            if _place(self.tensor) != _place(self._memory):
                self.tensor.data = self._memory
            if self.is_changed:
                local_part(self.tensor).copy_(self._content)


def _place(tensor: torch.Tensor) -> tuple[object, ...] | None:
    """Where the elements of a dense tensor are, and how they lie; None of other tensors."""
    if tensor.layout is not torch.strided or tensor.is_nested or is_fake(tensor) or hasattr(tensor, "__tensor_flatten__"):
        return None
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
