"""Inputs of subclasses of torch.Tensor that compute as plain tensors do, such as images with metadata."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)
_CARRY_METADATA = ("monai.data.", "torchvision.tv_tensors")
"""Modules of subclasses whose ``__torch_function__`` follows metadata and leaves values alone."""


@cache
def computes_as_plain(kind: type) -> bool:
    """Whether tensors of this subclass compute what plain ones do: nothing in it changes what functions of torch compute."""
    if kind in _PLAIN:
        return True
    follows: Any = kind.__torch_function__  # type: ignore[attr-defined]
    default: Any = torch.Tensor.__torch_function__
    return kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__ and (  # type: ignore[attr-defined]
        getattr(follows, "__func__", follows) is getattr(default, "__func__", default)
        or any(base.__module__.startswith(_CARRY_METADATA) for base in kind.__mro__)
    )


def is_of_pytorch(kind: type) -> bool:
    """Whether a subclass is PyTorch's own, such as those of fake, nested and distributed tensors."""
    return kind.__module__.partition(".")[0] == "torch"


def plain(leaf: Any) -> Any:
    """A tensor of such a subclass as a plain tensor on the same memory; anything else as it is."""
    kind: Any = type(leaf)
    if kind in _PLAIN or not isinstance(leaf, torch.Tensor) or not computes_as_plain(kind):
        return leaf
    return leaf.as_subclass(torch.Tensor)
