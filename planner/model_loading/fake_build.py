"""Building a model without memory: its tensors have a shape, a dtype and a device, and no numbers.

A model far larger than this machine can then be planned for a device that is not here (``plan --device``).
"""

from __future__ import annotations

import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.planner.formatting import format_bytes
from remat_planner.tracer.errors import DataDependentError
from remat_planner.tracer.on_paper import PlacedOnCpu, as_on_gpu
from remat_planner.tracer.operators import reads_a_number, sized_by_values
from remat_planner.tracer.record import KnownValues, UnknownValueError, user_line
from remat_planner.tracer.torch_private import new_fake_mode, truncated_normals_not_drawn

EXPECTED_GROWTH = 10**9
"""Bytes by which this process may grow without a warning: libraries that ``build`` imports, and the modules themselves."""


class RealMemoryWarning(UserWarning):
    """Building a model took memory, although its tensors take none."""


class _ReadsAnswered(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers code that reads numbers which depend on constants alone: the rates in ``torch.linspace(0, 0.1, depth).tolist()``.

    A result whose size depends on values (``torch.unique(widths)``) is a real tensor.
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
                    f"{source or 'the model'}: the code reads a value of a tensor ({func}), but the model is built without "
                    f"memory, so its tensors have no values: {error}. Read it from the configuration instead, or build the "
                    "model for real, on a machine with enough memory (without --device)",
                    source=source,
                    operator=str(func),
                ) from None
        result = func(*args, **kwargs)
        self._known.follow(func, args, kwargs, result)
        return result


def _resident_bytes() -> int:
    """Bytes of the machine's memory that this process occupies; 0 where the system does not say."""
    counters = Path("/proc/self/statm")
    return int(counters.read_text().split()[1]) * resource.getpagesize() if counters.exists() else 0


@contextmanager
def built_without_memory() -> Iterator[None]:
    """Create parameters, buffers and inputs inside as fake tensors.

    On a machine without a GPU, tensors that the code places on one are on the CPU: some of PyTorch's fused kernels end the
    process when they meet a fake of an absent GPU, and the planned costs are not this machine's anyway.

    Warns with ``RealMemoryWarning`` if the process grew by more than ``EXPECTED_GROWTH``: other code than PyTorch's factories
    took memory.

    Raises:
        UnsupportedOperatorError: the code asks for autocast on an absent GPU.
        DataDependentError: the code reads a number from a parameter or a random draw.
    """
    original = nn.Module._apply
    nn.Module._apply = _apply_with_new_tensors  # type: ignore[method-assign]
    before = _resident_bytes()
    try:
        paper = nullcontext() if torch.cuda.is_available() else PlacedOnCpu()
        with as_on_gpu(), new_fake_mode(), _ReadsAnswered(), paper, truncated_normals_not_drawn():
            yield
        if (grown := _resident_bytes() - before) > EXPECTED_GROWTH:
            warnings.warn(
                f"this process grew by {format_bytes(grown)} while the model was built, although PyTorch's own tensors took no "
                "memory: the model's code allocates real arrays (NumPy), reads a checkpoint (torch.load, from_pretrained), "
                "or uses tensors from before build(). Build the model from its configuration instead",
                RealMemoryWarning,
                stacklevel=3,
            )
    finally:
        nn.Module._apply = original  # type: ignore[method-assign]


def _apply_with_new_tensors(
    module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
) -> nn.Module:
    """``nn.Module._apply``, on which ``model.to(dtype)``, ``.half()`` and the like rely, but with new tensors in the slots.

    PyTorch's own version swaps the contents of tensors, which fails for fakes: their mode holds weak references. A tensor that
    several modules share stays shared.
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
