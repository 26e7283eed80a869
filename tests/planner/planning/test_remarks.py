"""What is said once about a model that is planned."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import remat_planner

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = layer(x) if self.reentrant is None else checkpoint(layer, x, use_reentrant=self.reentrant)
        return x.tanh().square().mean()


def plan_twice(net: nn.Module) -> None:
    for _ in range(2):
        remat_planner.plan(net, (X,), budget="100%", time_limit=1, verify=False)


@pytest.mark.slow
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_of_the_models_own(said, reentrant):
    plan_twice(Net(reentrant))
    (message,) = said
    assert "torch.utils.checkpoint is on (layers.1-3)" in message


@pytest.mark.slow
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_plan_of_a_checkpointed_model_starts_from_the_step_without_checkpointing(reentrant):
    net = Net(reentrant)
    schedule = remat_planner.plan(net, (X,), budget="100%", time_limit=1, verify=False)
    plain = remat_planner.plan(Net(None), (X,), budget="100%", time_limit=1, verify=False)
    assert len(schedule.graph.ops) == len(plain.graph.ops)
    assert schedule.baseline_peak_bytes == plain.baseline_peak_bytes
    assert remat_planner.verify(net, schedule, (X,)).identical


@pytest.mark.slow
def test_a_batch_norm_that_checkpointing_runs_again_updates_its_statistics_twice():
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.block, x, use_reentrant=False).square().mean()

    net = Normalized()
    schedule = remat_planner.plan(net, (X,), budget="100%", time_limit=1, verify=False)
    assert remat_planner.verify(net, schedule, (X,)).identical


@pytest.mark.slow
def test_a_model_without_checkpointing(said):
    plan_twice(Net(None))
    assert not said


@pytest.mark.slow
def test_a_model_in_evaluation_mode(said):
    plan_twice(Net(None).eval())
    (message,) = said
    assert "planned in evaluation mode" in message


@pytest.mark.slow
def test_a_step_in_another_mode_than_the_planned_one(said):
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).eval()
    least = remat_planner.plan(net, (X,), budget="100%", time_limit=1, verify=False).budget
    schedule = remat_planner.plan(net, (X,), budget=least, time_limit=1, verify=False)
    with pytest.raises(remat_planner.InfeasibleBudgetError, match="in training mode, and the plan is for evaluation mode"):
        remat_planner.apply_schedule(net, schedule).train()(X)
