"""Models of the zoo, captured once, and the comparison of their training steps."""

from __future__ import annotations

import functools

import torch
from torch import nn

from remat_planner.schedules import Graph
from remat_planner.tracer import Joint, lower
from tests import zoo_captures
from tests.zoo import Case, loss_of


@functools.cache
def captured(name: str) -> tuple[Case, Joint, Graph]:
    case, joint = zoo_captures.captured(name)
    return case, joint, lower(joint).graph


def step(case: Case, called: nn.Module, seed: int) -> dict[str, torch.Tensor | None]:
    """One training step that accumulates gradients: loss, gradients, buffers and random state afterwards, by name."""
    torch.manual_seed(seed)
    loss = loss_of(case, called(*case.args, **case.kwargs))
    loss.backward()
    found: dict[str, torch.Tensor | None] = {"loss": loss, "random state": torch.get_rng_state()}
    found |= {f"gradient {name}": p.grad for name, p in called.named_parameters()}
    found |= dict(called.named_buffers())
    return {name: None if t is None else t.detach().clone() for name, t in found.items()}


def differing(one: dict[str, torch.Tensor | None], other: dict[str, torch.Tensor | None]) -> list[str]:
    return [
        name
        for name, a in one.items()
        if (a is None) != ((b := other[name]) is None) or (a is not None and b is not None and not torch.equal(a, b))
    ]
