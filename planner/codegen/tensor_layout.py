"""TODO: ."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class IncomingForm:
    """The strided form of an incoming gradient in the captured step; ``dense`` where every element has its own place
    without gaps.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    dense: bool

    @classmethod
    def of(cls, tensor: torch.Tensor) -> IncomingForm:
        """The form of ``tensor``, which may be fake."""
        expected = 1
        dense = True
        for size, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda pair: pair[1]):
            if size != 1:
                dense = dense and stride == expected
                expected *= size
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, dense)

    def fit(self, gradient: torch.Tensor | None) -> torch.Tensor:
        """``gradient`` in this form: as it is where it fits, zeros where none arrived."""
        if gradient is None:
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        if gradient.stride() == self.stride:
            return gradient
        if not self.dense:
            return gradient.contiguous()
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device).copy_(gradient)
