"""What an optimizer's step is to a model: its parameters are others afterwards, and their gradients are cleared."""

from __future__ import annotations

import torch
from torch import nn

from remat_planner.planner.distributed import local_part

_CHANGE = 2**-6
"""The largest change of a parameter, as a share of it; of one that is zero, the change itself."""


def update_parameters(model: nn.Module) -> None:
    """Change all parameters that have a gradient, by noise that is the same in every run, and clear the gradients.

    The change does not depend on the gradients: where eager does not repeat one, the next step still starts alike.
    """
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.grad is not None:
                _change(local_part(parameter), seed=number)
                parameter.grad = None


def _change(parameter: torch.Tensor, seed: int) -> None:
    generator = torch.Generator(parameter.device)
    generator.manual_seed(seed)
    noise = torch.empty(parameter.shape, dtype=torch.float32, device=parameter.device)
    noise.uniform_(-_CHANGE, _CHANGE, generator=generator)
    scale = torch.where(parameter == 0, torch.ones_like(noise), parameter.abs().to(noise.dtype))
    parameter.add_(noise.mul_(scale).to(parameter.dtype))
