"""Runs a training program twice, in eager and by a plan, and compares all that its steps leave."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

import remat_planner


@dataclass(frozen=True)
class Asked:
    """What a program asks to be planned: a call of its model."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    loss: Callable[..., torch.Tensor] | None = None


Program = Callable[[], Generator[Any, nn.Module, None]]
"""Yields what to plan, is sent the model to train, and yields what each step gives."""


def train(program: Program, budget: str | None) -> list[dict[str, Any]]:
    """All that each step of ``program`` leaves; in eager where ``budget`` is None, else planned and verified."""
    _seed(0)
    steps = program()
    asked = next(steps)
    called = asked.model
    if budget is not None:
        schedule = remat_planner.plan(
            asked.model, asked.args, asked.kwargs, budget=budget, loss=asked.loss, time_limit=2, verify=True
        )
        called = remat_planner.apply_schedule(asked.model, schedule)
    _seed(1)
    left = [{"step": _copied(steps.send(called)), **_state(asked.model)}]
    left.extend({"step": _copied(step), **_state(asked.model)} for step in steps)
    return left


def differing(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> Iterator[str]:
    """What two runs leave otherwise, by name."""
    for number, (before, after) in enumerate(zip(one, other, strict=True)):
        for name in before.keys() | after.keys():
            if not _is_same(before.get(name), after.get(name)):
                yield f"step {number}: {name}"


def epoch(
    model: nn.Module,
    batches: list[tuple[Any, ...]],
    optimizer: torch.optim.Optimizer | None = None,
    loss: Callable[[Any], torch.Tensor] = lambda output: output,
) -> Iterator[torch.Tensor]:
    """The loss of an ordinary step on each batch."""
    optimizer = optimizer or torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    for batch in batches:
        optimizer.zero_grad()
        value = loss(model(*batch))
        value.backward()
        optimizer.step()
        yield value


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _state(model: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {
        f"gradient of {n}": None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
    }
    state |= {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    for name, module in model.named_modules():
        public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        state |= {f"{name}.{key}": _copied(value) for key, value in public.items() if _is_data(value)}
    return state | {"torch": torch.get_rng_state(), "random": random.getstate(), "numpy": str(np.random.get_state()[1:3])}


def _is_data(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_data, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor))


def _copied(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return type(one) is type(other) and bool(one == other)
