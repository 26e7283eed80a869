"""Building a model without its memory: tensors that are made have a shape, a dtype and a device, and no numbers.

So that a model far larger than this machine can be planned for a device that is not here (``plan --device``).
"""

from __future__ import annotations

import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.planner.formatting import format_bytes
from remat_planner.tracer.errors import DataDependentError
from remat_planner.tracer.joint import reads_a_number, sized_by_values
from remat_planner.tracer.on_paper import PlacedOnCpu, as_on_gpu
from remat_planner.tracer.record import KnownValues, UnknownValueError, user_line
from remat_planner.tracer.torch_private import new_fake_mode, truncated_normals_not_drawn

EXPECTED_GROWTH = 10**9
"""Bytes that importing libraries and building modules may take."""


class RealMemoryWarning(UserWarning):
    """Building a model took memory, though its tensors have none."""


class _NumbersRead(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers the code that reads what it has just counted out: the rates in ``torch.linspace(0, 0.1, depth).tolist()``.

    What has as many elements as values say (``torch.unique(widths)``) is real.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = KnownValues()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if reads_a_number(func) or sized_by_values(func):
            source = user_line(sys._getframe(1))
            try:
                return self._known.read(func, args, kwargs, source)
            except UnknownValueError as error:
                raise DataDependentError(
                    f"{source or 'the model'}: the code reads a value of a tensor ({func}), but while a model is built "
                    f"without memory its tensors have none: {error}. Read it from the configuration instead, or build the "
                    "model for real, on a machine that holds it (without --device)",
                    source=source,
                    operator=str(func),
                ) from None
        result = func(*args, **kwargs)
        self._known.follow(func, args, kwargs, result)
        return result


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
        DataDependentError: the code reads a number from a parameter or a random draw.
        RealMemoryWarning: (as a warning) this took memory all the same, which other code than PyTorch's factories did.
    """
    original = nn.Module._apply
    nn.Module._apply = _apply  # type: ignore[method-assign]
    before = _resident_bytes()
    try:
        paper = nullcontext() if torch.cuda.is_available() else PlacedOnCpu()
        with as_on_gpu(), new_fake_mode(), _NumbersRead(), paper, truncated_normals_not_drawn():
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
