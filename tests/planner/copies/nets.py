"""The model whose activations the tests copy."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """Layers with dropout between them."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Dropout(0.1)) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[n, 32] to the same."""
        result: torch.Tensor = self.layers(x)
        return result
