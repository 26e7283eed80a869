"""Planning for a GPU on a machine without one: what PyTorch would then leave out in silence is refused, what it would do
otherwise is done as on the GPU.

``torch.autocast("cuda")`` does nothing where there is no GPU but warn, so that a step in half precision would be planned in
float32. The CPU's autocast cannot stand in for it: it converts other operators.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from torch.overrides import TorchFunctionMode

from remat_planner.tracer.errors import UnsupportedOperatorError
from remat_planner.tracer.on_paper.gpu_kernels import fused_kernels
from remat_planner.tracer.record import user_line
from remat_planner.tracer.torch_private import autocast_asks_for_gpu


@contextmanager
def as_on_gpu(*, fused: bool = False) -> Iterator[None]:
    """Within this, autocast on an absent GPU is an error; where there is a GPU, nothing changes.

    With ``fused`` attention and dropout are the kernels that a GPU would run, also where this machine could not run them.

    Raises:
        UnsupportedOperatorError: ``torch.autocast("cuda")`` is made and there is no GPU.
    """
    if torch.cuda.is_available():
        yield
        return
    with autocast_asks_for_gpu(_refuse), fused_kernels() if fused else nullcontext():
        yield


def _refuse() -> NoReturn:
    source = user_line(sys._getframe(1))
    raise UnsupportedOperatorError(
        f"{source or 'the model'}: torch.autocast('cuda') does nothing on a machine without a GPU, so the plan would be one of "
        "another step, in float32. Plan where the GPU is, or hold the model and its inputs in the lower precision themselves "
        "(model.to(torch.bfloat16)) and leave autocast out",
        operator="autocast",
        source=source,
    )


class PlacedOnCpu(TorchFunctionMode):
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
