"""Whether the code that inductor makes of a partition computes eager's gradients, on a real step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from remat_planner.planner.errors import CompilerError
from remat_planner.planner.formatting import format_percent
from remat_planner.planner.measurement import KeptGenerators, ToleranceCheck

Step = Callable[[], Any]

_TRIES = 4
"""How often eager's gradients are computed with changed parameters: in each an activation near zero may keep its sign."""
_ROUNDINGS = 16
"""Units in the last place; in dtypes of few bits, where that is no small change, a part of the tolerance."""
_FURTHER = 2.0
"""A wrong gradient is further away than this times what roundings do: of several activations not all change their sign."""


def largest_difference(model: nn.Module, eager: Step, compiled: Step, restart: Callable[[], None]) -> float | None:
    """The largest difference of a gradient of ``compiled``, as a share of the largest element of eager's.

    None where that says nothing: the step draws random numbers, which inductor draws otherwise, or eager's step does not fit
    the device.

    A gradient may jump where an activation changes its sign, as that of a ReLU does, and a sum in another order is enough for
    that. So a gradient that is off is compared with how far eager's own moves when the parameters change by a few roundings.

    Args:
        model: the model whose parameters both steps train.
        eager: runs a step of the model as it is.
        compiled: runs a step of the compiled model.
        restart: puts the model, its parameters too, back to where the step begins, without gradients.

    Raises:
        CompilerError: a gradient differs by more than the square root of its dtype's epsilon, and by more than it moves.
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
    off = {name: check.difference(name) for name in expected if not check.is_close(name)}
    for seed in range(_TRIES):
        if not off:
            return check.largest_difference
        moved = ToleranceCheck(expected)
        _change_by_rounding(model, seed)
        eager()
        for name, gradient in _gradients(model).items():
            moved.add(name, gradient)
        restart()
        off = {name: difference for name, difference in off.items() if difference > _FURTHER * moved.difference(name)}
    if off:
        furthest = max(off, key=off.__getitem__)
        raise CompilerError(
            f"the compiled step's {furthest.partition(': ')[2]} differs from eager's by {format_percent(off[furthest])} of its "
            "largest element: for this partition inductor makes code that computes something else. Choose another budget, or "
            "plan for PyTorch's kernels: remat_planner.plan, apply_schedule",
            compiler="inductor",
        )
    return check.largest_difference


def _change_by_rounding(model: nn.Module, seed: int) -> None:
    """Change each parameter by a random part of a few units in the last place."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                eps = torch.finfo(parameter.dtype).eps
                generator = torch.Generator(parameter.device).manual_seed(seed)
                noise = torch.empty_like(parameter).uniform_(-1.0, 1.0, generator=generator)
                parameter.addcmul_(parameter, noise, value=min(_ROUNDINGS * eps, math.sqrt(eps) / _ROUNDINGS))


def _gradients(model: nn.Module) -> Mapping[str, Any]:
    """Copies on the host, so that they take none of the device's memory."""
    return {
        f"step: gradient of {name}": None if parameter.grad is None else parameter.grad.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
    }
