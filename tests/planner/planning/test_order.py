"""Plans whose first executions may move: bits, peaks, and where they may not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.solvers.problem import Problem


class Branches(nn.Module):
    """Branches that are large for a moment; eager computes all of them before it reads one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = [torch.cat([F.dropout(self.norm(layer(x)), 0.1)] * 32) for layer in self.layers]
        return torch.stack([part.mean(0) for part in large]).square().sum()


@pytest.mark.slow
def test_bits_and_peak_are_kept_where_first_executions_move() -> None:
    torch.manual_seed(0)
    model, x = Branches(), torch.randn(32, 16)
    schedule = remat_planner.plan(
        model, (x,), budget="60%", order="any", solver="anneal", time_limit=1, costs="h100", verify=False
    )
    assert not Problem.of(schedule.graph).keeps_order(schedule.steps)
    assert schedule.seconds == schedule.baseline_seconds, "in the given order something is recomputed within this budget"
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical
    assert found.as_promised


def test_copies_and_other_solvers_keep_the_order() -> None:
    for other in ({"solver": "ilp"}, {"offload": remat_planner.Offload(disk="1MB", folder="/nowhere")}):
        with pytest.raises((remat_planner.OrderError, remat_planner.OffloadError)):
            remat_planner.plan(Branches(), (torch.randn(4, 16),), budget="90%", order="any", **other)  # type: ignore[arg-type]
