"""Triton kernels launched in an autograd.Function, without torch.library, keep the promise on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import remat_planner

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]
_BLOCK = 1024


@triton.jit
def _silu(x, result, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    values = tl.load(x + at, mask=at < size)
    tl.store(result + at, values * tl.sigmoid(values), mask=at < size)


@triton.jit
def _silu_backward(gradient, x, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    values = tl.load(x + at, mask=at < size)
    arriving = tl.load(gradient + at, mask=at < size)
    share = tl.sigmoid(values)
    tl.store(x + at, arriving * share * (1 + values * (1 - share)), mask=at < size)


class Silu(torch.autograd.Function):
    """Its backward writes the gradient into the saved tensor, as Liger's kernels do."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(x)
        _silu[(triton.cdiv(x.numel(), _BLOCK),)](x, result, x.numel(), block=_BLOCK)
        ctx.save_for_backward(x)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        gradient = gradient.contiguous()
        _silu_backward[(triton.cdiv(x.numel(), _BLOCK),)](gradient, x, x.numel(), block=_BLOCK)
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(256), nn.Linear(256, 1024), nn.Linear(1024, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(Silu.apply(self.up(self.norm(x))))


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.float().square().mean()


@pytest.mark.parametrize("pure", [False, True])
def test_bits_and_peak(pure: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(*(Block() for _ in range(4))).cuda(), torch.randn(2048, 256, device="cuda")
    remat_planner.register_function(Silu, pure=pure)
    schedule = remat_planner.plan(model, (x,), budget="85%", loss=_loss, time_limit=5)
    found = remat_planner.verify(model, schedule, (x,), loss=_loss)
    assert found.identical, found.differences
    assert found.measured_peak_bytes <= found.budget_bytes
    launches = [op for op in schedule.graph.ops if op.kind == "Silu"]
    assert [op.pinned is None for op in launches] == [pure] * 4
