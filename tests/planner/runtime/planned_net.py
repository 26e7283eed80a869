"""A small model under a random schedule, and helpers to compare it with eager."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner import apply_schedule
from remat_planner.planner.apply import planned_call
from remat_planner.schedules import Schedule
from remat_planner.tracer import capture, lower
from tests.planner.random_schedules import random_steps, schedule_of


class Net(nn.Module):
    """Convolution, batch norm, dropout, a counter, two outputs."""

    kind = "net"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, 4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.scale = 1.0
        self.note = ""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x: torch.Tensor, *, times: int = 1) -> dict[str, Any]:
        self.steps.add_(1)
        h = self.features(x)
        for _ in range(times):
            h = F.dropout(torch.tanh(self.hidden(h)), 0.3, self.training)
            h = F.pad(h, (0, -2))
        return {"loss": self.head(F.pad(h, (0, 2))).pow(2).mean() * self.scale, "hidden": h, "times": times}


def build(seed: int = 0) -> tuple[Net, torch.Tensor]:
    torch.manual_seed(seed)
    return Net().train(), torch.randn(4, 3, 6, 6)


def planned_net(seed: int = 1, **settings: Any) -> tuple[Any, Net, torch.Tensor]:
    """The planned module, an eager copy, an input."""
    model, x = build()
    eager = copy.deepcopy(model)
    ours = planned(model, (x,), seed=seed, **settings)
    schedule = planned_call(ours).schedule
    assert len(schedule.steps) > len(schedule.graph.ops)
    return ours, eager, x


def planned(
    model: nn.Module,
    args: tuple[Any, ...],
    *,
    seed: int = 1,
    loss: Callable[[Any], torch.Tensor] | None = None,
    **settings: Any,
) -> Any:
    joint = capture(model, args, loss=loss)
    graph = lower(joint).graph
    steps = random_steps(graph, seed, evict=0.7, evict_again=0.1)
    return apply_schedule(model, schedule_of(joint, steps, graph=graph), **settings)


def replanning(calls: list[tuple[int, ...]]) -> Callable[..., Schedule]:
    def replan(model: nn.Module, args: tuple[Any, ...], kwargs: Any, like: Schedule) -> Schedule:
        calls.append(tuple(args[0].shape))
        joint = capture(model, args, kwargs)
        graph = lower(joint).graph
        return schedule_of(joint, random_steps(graph, 7), graph=graph)

    return replan


def gradients(model: nn.Module) -> list[torch.Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def equal(one: list[torch.Tensor | None], other: list[torch.Tensor | None]) -> bool:
    return all(
        (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b)) for a, b in zip(one, other, strict=True)
    )


def same_state(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


class Failing(TorchDispatchMode):
    """Fails at the n-th operator, as when memory runs out."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise MemoryError("out of memory")
        return func(*args, **(kwargs or {}))
