"""Autocast for an absent GPU is refused when the plan is for a GPU, and left alone otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.model_loading.fake_build import built_without_memory
from remat_planner.tracer.errors import UnsupportedOperatorError
from remat_planner.tracer.on_paper.absent_gpu import as_on_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


class Autocast(nn.Module):
    """A layer under autocast on ``device``."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.layer = device, nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return self.layer(x).float().sum()


def test_autocast_in_the_forward_is_refused_with_its_line() -> None:
    with built_without_memory():
        model, x = Autocast("cuda"), torch.randn(4, 16)
    with pytest.raises(UnsupportedOperatorError, match=r"test_absent_gpu\.py:\d+: torch\.autocast\('cuda'\)") as refused:
        remat_planner.plan(model, (x,), budget="100%", costs="h100")
    assert refused.value.operator == "autocast"


def test_autocast_while_the_model_is_built_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="float32"), built_without_memory():
        torch.autocast("cuda")


def test_other_autocast_is_left_alone() -> None:
    with as_on_gpu():
        torch.autocast("cuda", enabled=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with pytest.warns(UserWarning, match="Disabling autocast"):
        remat_planner.trace(Autocast("cuda"), (torch.randn(4, 16),))  # measured here, where eager does without it too
