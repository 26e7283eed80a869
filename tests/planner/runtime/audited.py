"""A small model, planned, and what its audits say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from remat_planner import apply_schedule, plan

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A layer, and what a test makes of its output."""

    def __init__(self, function: Callable[[Net, torch.Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, self.layer(x))


def planned(model: nn.Module, x: torch.Tensor = X, loss: Any = torch.sum, **options: Any) -> nn.Module:
    schedule = plan(model, (x,), budget="100%", solver="none", loss=loss, verify=False)
    return apply_schedule(model, schedule, **options)
