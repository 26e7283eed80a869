"""A small model and its training inside wrappers, shared by the checks that torchrun starts."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from remat_planner.planner.distributed.ranks import runs_to_measure_peak
from remat_planner.planner.distributed.sharding import local_part
from remat_planner.planner.measurement.peak import measure_peak
from remat_planner.planner.measurement.real_step import one_step

STEPS = 4
MANY_STEPS = 20
WIDTH = 32


class Block(nn.Module):
    """Layer norm, a wide middle, dropout, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.dropout(self.down(F.gelu(self.up(self.norm(x)))), 0.1, self.training)


class Net(nn.Module):
    """Blocks, and statistics that the forward updates."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).square().mean()


def build() -> tuple[Net, torch.Tensor]:
    """The same model on every rank, with different inputs."""
    torch.manual_seed(0)
    model = Net()
    return model, torch.randn(1024, WIDTH, generator=torch.Generator().manual_seed(rank()))


def rank() -> int:
    return torch.distributed.get_rank()


def sharded(model: nn.Module) -> nn.Module:
    """``fully_shard`` on every block and on the model."""
    for layer in model.layers:
        fully_shard(layer)
    return fully_shard(model)


def train(model: nn.Module, x: torch.Tensor, *, steps: int = STEPS) -> list[torch.Tensor]:
    """AdamW steps. Every other one accumulates the gradients of two halves and communicates only in the second.

    Returns loss, gradients of the last step, parameters and buffers; of sharded ones the part on this rank.
    """
    torch.manual_seed(5 + rank())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        if step % 2:
            without_communication(model, lambda: model(x).backward())
        loss = model(x)
        loss.backward()
        optimizer.step()
    gradients = [p.grad for p in model.parameters()]
    return [loss.detach(), *(local_part(t.detach()).clone() for t in (*gradients, *model.parameters(), *model.buffers()))]


def without_communication(model: nn.Module, run: Callable[[], object]) -> None:
    """Accumulate the gradients of ``run`` on this rank alone."""
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            run()
    else:
        model.set_requires_gradient_sync(False)
        run()
        model.set_requires_gradient_sync(True)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def measured(model: nn.Module, x: torch.Tensor, *, accumulate: bool = False) -> int:
    """Peak of a step, in bytes above those before it: the lowest of ``runs_to_measure_peak`` runs."""
    peaks = []
    for _ in range(runs_to_measure_peak(model)):
        if not accumulate:
            model.zero_grad()
        peaks.append(measure_peak(one_step(model, (x,), {}, None)))
    return min(peaks)
