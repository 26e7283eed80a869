"""Kernels that stand in for PyTorch's are called for fakes alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from remat_planner.tracer import torch_private as private
from remat_planner.tracer.torch_kernels import autograd_replaced, composites_replaced


def test_composite_operators_are_replaced_on_fakes_alone():
    seen = []

    def kernel(values: torch.Tensor, probability: float, training: bool) -> torch.Tensor | None:
        seen.append(probability)
        return values + 1 if probability == 0.5 else None

    real = torch.ones(8)
    with composites_replaced({torch.ops.aten.dropout.default: kernel}):
        torch.dropout(real, 0.5, True)
        with private.new_fake_mode():
            for probability in (0.5, 0.25):
                assert private.is_fake(torch.dropout(torch.ones(8), probability, True))
    torch.dropout(real, 0.75, True)
    assert seen == [0.5, 0.25]


def test_autograd_is_replaced_on_fakes_alone():
    seen = []

    def kernel(original: Callable[..., torch.Tensor], values: torch.Tensor) -> torch.Tensor:
        seen.append(private.is_fake(values))
        return original(values)

    real = torch.ones(3, requires_grad=True)
    mode = private.new_fake_mode()
    with autograd_replaced({torch.ops.aten.prod.default: kernel}):
        assert torch.equal(torch.autograd.grad(real.prod(), real)[0], torch.ones(3))
        fake = private.to_fake(mode, real)
        assert torch.autograd.grad(fake.prod(), fake)[0].shape == (3,)
    fake.prod()
    assert seen == [True]
