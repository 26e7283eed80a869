"""Steps of a model planned by regions that take more bytes than its plan counts are told once; others are not."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.measurement import measure_peak
from remat_planner.schedules import RegionSchedule
from tests.planner.regions.helpers import Block

X = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two blocks, of which the second is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.blocks
        return second(second(first(x)))


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def planned_net() -> tuple[nn.Module, RegionSchedule]:
    net = Net()
    schedule = remat_planner.plan(net, (X,), budget="100%", regions="blocks.*", loss=mean_square, time_limit=1, verify=False)
    assert isinstance(schedule, RegionSchedule)
    return remat_planner.apply_schedule(net, dataclasses.replace(schedule, budget=schedule.peak_bytes)), schedule


@pytest.mark.slow
def test_two_forwards_before_one_backward_and_gradients_of_an_earlier_step(said):
    planned, schedule = planned_net()
    for _ in range(3):
        planned.zero_grad()
        mean_square(planned(X)).backward()
        planned(X)  # its result is dropped
    assert not said
    planned.zero_grad()

    def step() -> None:
        (mean_square(planned(X)) - mean_square(planned(-X))).backward()

    peak = schedule.constant_bytes + measure_peak(step)
    (message,) = said
    assert "2 forwards of Net" in message
    assert f"{schedule.peak_in_flight(2):,} bytes or more" in message
    assert schedule.peak_bytes < schedule.peak_in_flight(2) <= peak
    mean_square(planned(X)).backward()
    existing = sum(p.nbytes for p in planned.parameters())
    assert f"{existing:,} bytes of gradients" in said[1]
    assert len(said) == 2


@pytest.mark.slow
def test_a_copy_has_a_watch_of_its_own(said):
    planned, _ = planned_net()
    for copied in (copy.deepcopy(planned), pickle.loads(pickle.dumps(planned))):
        said.clear()
        (mean_square(copied(X)) - mean_square(copied(-X))).backward()
        assert len(said) == 1


def test_training_in_evaluation_mode_is_told_once(said):
    planned, _ = planned_net()
    mean_square(planned(X)).backward()
    planned.eval()
    planned(X)  # without a backward
    with torch.no_grad():
        planned(X)
    assert not [message for message in said if "evaluation" in message]
    for _ in range(2):
        planned.zero_grad()
        mean_square(planned(X)).backward()
    (message,) = [message for message in said if "evaluation" in message]
    assert "Net, which is planned by regions, ran without their plans" in message


def test_a_block_that_was_replaced_is_told_once(said):
    planned, _ = planned_net()
    for _ in range(4):
        planned.zero_grad()
        mean_square(planned(X)).backward()
    assert not said
    planned.blocks[0] = Block()
    for _ in range(5):
        planned.zero_grad()
        mean_square(planned(X)).backward()
    (message,) = [message for message in said if "has no plan" in message]
    assert "blocks.0 of Net, which is planned by regions, was replaced" in message
