"""Models built without their memory."""

from __future__ import annotations

import torch
from torch import nn

from planner.fake_build import built_without_memory
from tracer.torch_private import is_fake


class Tied(nn.Module):
    """An embedding and a projection that share their weight, and a buffer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, size)
        self.head = nn.Linear(size, size, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(size))


def test_a_model_larger_than_any_machine() -> None:
    with built_without_memory():
        model = nn.Sequential(*(nn.Linear(1_000_000, 1_000_000, bias=False) for _ in range(4)))
    assert sum(p.numel() for p in model.parameters()) == 4 * 10**12
    assert all(is_fake(p) for p in model.parameters())


def test_conversion_keeps_ties_and_flags() -> None:
    with built_without_memory():
        model = Tied(8)
        model.embedding.weight.requires_grad_(False)
        returned = model.to(torch.bfloat16)
    assert returned is model
    assert model.head.weight is model.embedding.weight
    assert isinstance(model.head.weight, nn.Parameter)
    assert model.head.weight.dtype == model.scale.dtype == torch.bfloat16
    assert not model.head.weight.requires_grad


def test_afterwards_modules_are_real_again() -> None:
    with built_without_memory():
        nn.Linear(2, 2)
    layer = nn.Linear(2, 2)
    weight = layer.weight
    assert layer.double().weight is weight  # PyTorch's own conversion, in place
    assert not is_fake(weight)
