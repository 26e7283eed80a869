"""Small models with repeated blocks, and their gradients after a few steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class Block(nn.Module):
    """Layer norm, a wide middle, dropout, a residual."""

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class Decoder(nn.Module):
    """Blocks with a branch on what they compute between them."""

    def __init__(self, layers: int = 3, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, 50)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
            if x.abs().mean() > 0.8:
                x = x * 0.5
        return F.cross_entropy(self.head(x).flatten(0, 1), tokens.flatten())


def decoder(**sizes: int) -> tuple[Decoder, torch.Tensor]:
    torch.manual_seed(0)
    return Decoder(**sizes).train(), torch.randint(0, 50, (8, 64))


def gradients_after(model: nn.Module, *inputs: torch.Tensor, steps: int = 2) -> list[torch.Tensor]:
    """The loss and the gradients of ``steps`` accumulated steps from one seed."""
    torch.manual_seed(5)
    model.zero_grad()
    for _ in range(steps):
        loss = model(*inputs)
        loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None), torch.get_rng_state()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))
