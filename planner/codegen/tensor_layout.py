"""How a tensor lies in memory, and bringing an incoming gradient into the captured layout."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class TensorLayout:
    """Shape, strides, dtype and device of a tensor; ``dense`` where its elements lie without gaps or overlap."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    dense: bool

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorLayout:
        """The layout of ``tensor``, which may be fake."""
        shape, stride = tuple(tensor.shape), tensor.stride()
        return cls(shape, stride, tensor.dtype, tensor.device, _is_dense(shape, stride))

    def of_size(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> TensorLayout:
        """The layout of a tensor of another size."""
        return replace(self, shape=shape, stride=stride, dense=_is_dense(shape, stride))

    @property
    def overlapping(self) -> bool:
        """Whether elements may share memory, as in an expanded tensor."""
        end = 0
        for size, stride in sorted(zip(self.shape, self.stride, strict=True), key=lambda pair: pair[1]):
            if size > 1:
                if stride <= end:
                    return True
                end += (size - 1) * stride
        return False

    def fit(self, gradient: torch.Tensor) -> torch.Tensor:
        """``gradient`` in this layout: itself where it fits, a copy where it does not.

        A layout whose elements overlap cannot be written to; then the copy is contiguous.
        """
        if gradient.stride() == self.stride:
            return gradient
        if self.overlapping:
            return gradient.contiguous()
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device).copy_(gradient)


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    dense = True
    for size, step in sorted(zip(shape, stride, strict=True), key=lambda pair: pair[1]):
        if size != 1:
            dense = dense and step == expected
            expected *= size
    return dense
