"""Building a model without its memory: tensors that are made have a shape, a dtype and a device, and no numbers.

So that a model far larger than this machine can be planned for a device that is not here (``plan --device``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tracer.torch_private import new_fake_mode


@contextmanager
def built_without_memory() -> Iterator[None]:
    """Within this, parameters, buffers and inputs are made as fake tensors."""
    original = nn.Module._apply
    nn.Module._apply = _apply  # type: ignore[method-assign]
    try:
        with new_fake_mode():
            yield
    finally:
        nn.Module._apply = original  # type: ignore[method-assign]


def _apply(module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """What ``model.to(dtype)``, ``.half()`` and the like come down to, by putting a new tensor in each one's place.

    PyTorch's own swaps the contents of fakes, which their mode's weak references forbid. A tensor that several modules share
    stays shared.
    """
    converted: dict[int, torch.Tensor] = {}
    for owner in module.modules() if recurse else [module]:
        for tensors in (owner._parameters, owner._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in converted:
                    with torch.no_grad():
                        new = function(tensor)
                    parameter = isinstance(tensor, nn.Parameter)
                    converted[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if parameter else new
                tensors[name] = converted[id(tensor)]  # type: ignore[assignment]
    return module
