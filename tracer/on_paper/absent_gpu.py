"""Planning for a GPU on a machine without one.

Without a GPU, ``torch.autocast("cuda")`` only warns, and a step in half precision would be planned in float32. The CPU's
autocast converts other operators and cannot stand in for it, so the code is refused. Tensors for "cuda" are placed on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from torch.overrides import TorchFunctionMode

from remat_planner.tracer.on_paper.gpu_kernels import fused_kernels
from remat_planner.tracer.record import user_line
from remat_planner.tracer.refusals import absent_gpu_error
from remat_planner.tracer.torch_private import autocast_asks_for_gpu


@contextmanager
def as_on_gpu(*, fused: bool = False) -> Iterator[None]:
    """Refuse autocast on an absent GPU inside; where there is a GPU, nothing changes.

    With ``fused``, attention and dropout become the kernels that a GPU would run, even if this machine cannot run them.

    Raises:
        UnsupportedOperatorError: the code inside constructs ``torch.autocast("cuda")`` and there is no GPU.
    """
    if torch.cuda.is_available():
        yield
        return
    with autocast_asks_for_gpu(_refuse), fused_kernels() if fused else nullcontext():
        yield


def _refuse() -> NoReturn:
    raise absent_gpu_error(user_line(sys._getframe(1)))


class PlacedOnCpu(TorchFunctionMode):
    """Puts tensors and modules on the CPU when the code places them on "cuda"."""

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
