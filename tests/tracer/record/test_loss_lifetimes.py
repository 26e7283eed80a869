"""The caller's loss runs in eager: the peak includes the storages that its variables and autograd nodes retain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner

ROWS, CLASSES = 256, 128


def of_variables(output: torch.Tensor) -> torch.Tensor:
    doubled = output.float() * 2
    moved = doubled.contiguous() + 1
    return (moved * moved).logsumexp(-1).mean()


def of_several_terms(output: torch.Tensor) -> torch.Tensor:
    probabilities = output.softmax(-1)
    entropy = (probabilities * probabilities.log()).sum(-1)
    weights = torch.zeros(ROWS)
    weights += 1
    return (entropy * weights).mean() + output.logsumexp(-1).mean()


def in_place(output: torch.Tensor) -> torch.Tensor:
    scaled = output * 2
    scaled.mul_(3)
    return scaled.std() + F.huber_loss(output, torch.ones(ROWS, CLASSES))


LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cross_entropy": lambda output: F.cross_entropy(output, torch.arange(ROWS) % CLASSES),
    "smoothed": lambda output: F.cross_entropy(output, torch.arange(ROWS) % CLASSES, label_smoothing=0.1),
    "mse": lambda output: F.mse_loss(output, torch.ones(ROWS, CLASSES)),
    "logsumexp": lambda output: output.logsumexp(-1).mean(),
    "norm": lambda output: output.norm(),
    "of_variables": of_variables,
    "of_several_terms": of_several_terms,
    "in_place": in_place,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_the_peak_includes_what_the_loss_retains(name: str):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, CLASSES), nn.ReLU(), nn.Linear(CLASSES, CLASSES))
    x = torch.randn(ROWS, 64)
    schedule = remat_planner.plan(model, (x,), budget="100%", loss=LOSSES[name], solver="none")
    verification = remat_planner.verify(model, schedule, (x,), loss=LOSSES[name])
    assert verification.identical
    assert verification.measured_peak_bytes <= verification.predicted_peak_bytes <= 1.001 * verification.measured_peak_bytes
