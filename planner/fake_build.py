"""Building a model without its memory: tensors that are made have a shape, a dtype and a device, and no numbers.

So that a model far larger than this machine can be planned for a device that is not here (``plan --device``).
"""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from planner.units import format_bytes
from tracer.absent_gpu import as_on_gpu
from tracer.torch_private import new_fake_mode, truncated_normals_not_drawn

EXPECTED_GROWTH = 10**9
"""Bytes that importing libraries and building modules may take."""


class RealMemoryWarning(UserWarning):
    """Building a model took memory, though its tensors have none."""


class _GpuOnPaper(TorchFunctionMode):
    """Puts on the CPU what is asked for on "cuda"."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        placed = {name: "cpu" if name == "device" and isinstance(v, int) else _placed(v) for name, v in (kwargs or {}).items()}
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], int):
            args = (args[0], "cpu", *args[2:])
        return func(*map(_placed, args), **placed)


def _placed(argument: Any) -> Any:
    if isinstance(argument, torch.device):
        return torch.device("cpu") if argument.type == "cuda" else argument
    return "cpu" if isinstance(argument, str) and argument.partition(":")[0] == "cuda" else argument


def _resident_bytes() -> int:
    """What this process holds of the machine's memory; 0 where the system does not say."""
    described = Path("/proc/self/statm")
    return int(described.read_text().split()[1]) * resource.getpagesize() if described.exists() else 0


@contextmanager
def built_without_memory() -> Iterator[None]:
    """Within this, parameters, buffers and inputs are made as fake tensors.

    Where no GPU is at hand, those that the code puts on one are on the CPU: some of PyTorch's fused kernels end the process
    when they meet a fake of a GPU that is not there, and the costs that are planned with are not this machine's anyway.

    Raises:
        UnsupportedOperatorError: the code asks for autocast on a GPU that is not there.
        RealMemoryWarning: (as a warning) this took memory all the same, which other code than PyTorch's factories did.
    """
    original = nn.Module._apply
    nn.Module._apply = _apply  # type: ignore[method-assign]
    before = _resident_bytes()
    try:
        paper = nullcontext() if torch.cuda.is_available() else _GpuOnPaper()
        with as_on_gpu(), new_fake_mode(), paper, truncated_normals_not_drawn():
            yield
        if (grown := _resident_bytes() - before) > EXPECTED_GROWTH:
            warnings.warn(
                f"this process grew by {format_bytes(grown)} while the model was built, although PyTorch's own tensors took no "
                "memory: the model's code makes real arrays (NumPy), reads a checkpoint (torch.load, from_pretrained), or "
                "holds tensors made before build(). Build the model from its configuration instead",
                RealMemoryWarning,
                stacklevel=3,
            )
    finally:
        nn.Module._apply = original  # type: ignore[method-assign]


def built_for(device: str | None) -> AbstractContextManager[None]:
    """``built_without_memory`` where ``device`` names one to plan for on paper; else models are built as they are."""
    return nullcontext() if device is None else built_without_memory()


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
