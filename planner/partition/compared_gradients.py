"""Whether the code that inductor makes of a partition computes eager's gradients, on a real step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from remat_planner.planner.errors import CompilerError
from remat_planner.planner.formatting import format_percent
from remat_planner.planner.measurement import KeptGenerators, ToleranceCheck

Step = Callable[[], Any]


def largest_difference(model: nn.Module, eager: Step, compiled: Step, restart: Callable[[], None]) -> float | None:
    """The largest difference of a gradient of ``compiled``, as a share of the largest element of eager's.

    None where that says nothing: the step draws random numbers, which inductor draws otherwise, or eager's step does not fit
    the device.

    Args:
        model: the model whose parameters both steps train.
        eager: runs a step of the model as it is.
        compiled: runs a step of the compiled model.
        restart: puts the model back to where the step begins, without gradients.

    Raises:
        CompilerError: a gradient differs by more than the square root of its dtype's epsilon.
    """
    generators = KeptGenerators()
    try:
        eager()
    except (torch.OutOfMemoryError, MemoryError):
        restart()
        return None
    draws = generators.have_moved()
    expected = _gradients(model)
    restart()
    if draws:
        return None
    compiled()
    found = _gradients(model)
    restart()
    check = ToleranceCheck(expected)
    for name in expected:
        check.add(name, found[name])
    if not check.all_close:
        raise CompilerError(
            f"the compiled step's {check.furthest.partition(': ')[2]} differs from eager's by "
            f"{format_percent(check.largest_difference)} of its largest element: for this partition inductor makes code that "
            "computes something else. Choose another budget, or plan for PyTorch's kernels: remat_planner.plan, apply_schedule",
            compiler="inductor",
        )
    return check.largest_difference


def _gradients(model: nn.Module) -> Mapping[str, Any]:
    """Copies on the host, so that they take none of the device's memory."""
    return {
        f"step: gradient of {name}": None if parameter.grad is None else parameter.grad.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
    }
