"""Small models whose training state the tests count by hand, and plans of them."""

from __future__ import annotations

import torch
from torch import nn

import remat_planner
from remat_planner.schedules import Schedule, TrainingState
from remat_planner.tracer.costs.devices import allocated_on_gpu


class Net(nn.Module):
    """Three numbered blocks and a head outside of them, in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in ((64, 65), (65, 64), (64, 64)))
        self.head = nn.Linear(64, 10, bias=False)
        self.to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 64] -> a number."""
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x).sum()


BLOCKS = (65 * 64, 64 * 65, 64 * 64)
HEAD = 10 * 64
ALL = sum(BLOCKS) + HEAD


def planned(optimizer: str | None = None, **options: object) -> Schedule:
    """A plan of ``Net`` for a GPU without recomputation; ``options`` are those of its ``TrainingState``."""
    x, training = torch.randn(4, 64, dtype=torch.bfloat16), TrainingState(**options)  # type: ignore[arg-type]
    schedule = remat_planner.plan(
        Net(), (x,), budget="100%", costs="h100", solver="none", optimizer=optimizer, training=training
    )
    assert isinstance(schedule, Schedule)
    return schedule


def on_gpu(itemsize: int, *counts: int) -> int:
    """Bytes that a GPU's allocator hands out for tensors of that many elements each."""
    return sum(allocated_on_gpu(itemsize * count) for count in counts)


class Wide(nn.Module):
    """Parameters that weigh as much as activations, one of them shared and one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)) for _ in range(3))
        self.norm = nn.LayerNorm(64)
        self.layers[2][0].weight = self.layers[0][0].weight
        self.layers[1][0].weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 64] -> a number."""
        for layer in self.layers:
            x = self.norm(x + torch.nn.functional.dropout(layer(x), 0.1))
        return x.pow(2).mean()
