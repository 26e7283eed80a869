"""Steps that take more bytes than the plan counts are told once, with the bytes; others are not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.measurement import measure_peak
from remat_planner.schedules import Schedule

X = torch.randn(128, 32, generator=torch.Generator().manual_seed(0))


def loss_of(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def net_and_schedule(budget: str, **options: object) -> tuple[nn.Module, Schedule]:
    torch.manual_seed(0)
    net = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(32, 32), nn.GELU())])
    schedule = remat_planner.plan(net, (X,), budget=budget, loss=loss_of, time_limit=2, verify=False, **options)
    assert isinstance(schedule, Schedule)
    return net, schedule


def planned_net(budget: str, **options: object) -> tuple[nn.Module, Schedule]:
    net, schedule = net_and_schedule(budget, **options)
    return remat_planner.apply_schedule(net, schedule), schedule


@pytest.mark.slow
def test_two_forwards_before_one_backward(said):
    planned, schedule = planned_net("70%")

    def step() -> None:
        (planned(X) - planned(-X)).square().mean().backward()

    step()
    planned.zero_grad()
    (message,) = said
    assert "2 forwards" in message
    assert f"{schedule.peak_in_flight(2):,}" in message
    peak = schedule.graph.constant_bytes + measure_peak(step)
    assert schedule.budget < peak <= schedule.peak_in_flight(2)
    assert len(said) == 1


@pytest.mark.slow
def test_a_backward_that_keeps_the_graph(said):
    planned, schedule = planned_net("70%")

    def step(**options: bool) -> None:
        loss_of(planned(X)).backward(**options)
        planned.zero_grad()

    step()
    assert not said
    peak = schedule.graph.constant_bytes + measure_peak(lambda: step(retain_graph=True))
    assert schedule.budget < peak <= schedule.peak_in_flight(2)
    step(retain_graph=True)
    (message,) = said
    assert "retain_graph" in message
    assert f"{schedule.peak_in_flight(2):,}" in message


@pytest.mark.slow
def test_two_forwards_within_the_budget(said):
    planned, schedule = planned_net("100%")
    planned, schedule = planned_net(str(schedule.peak_in_flight(2)))
    (planned(X) - planned(-X)).square().mean().backward()
    assert not said


@pytest.mark.slow
def test_forwards_one_after_another(said):
    planned, _ = planned_net("70%")
    for _ in range(4):
        planned.zero_grad()
        loss = loss_of(planned(X))
        loss.backward()
    for _ in range(3):
        planned(X)  # with gradients, but its result is dropped
    assert not said


@pytest.mark.slow
def test_three_forwards_of_a_pipeline_where_two_fit(said):
    _, schedule = planned_net("100%")
    planned, schedule = planned_net(str(schedule.peak_in_flight(2)))
    losses = [loss_of(planned(X)) for _ in range(3)]
    for loss in losses:
        loss.backward()
    assert ["3 forwards" in message for message in said] == [True]


@pytest.mark.slow
def test_gradients_that_are_set_to_zero_stay_allocated(said):
    net, schedule = net_and_schedule("70%")
    # A plan found on a busy machine may lie so far below its budget that the gradients fit beside it.
    schedule = dataclasses.replace(schedule, budget=schedule.peak_bytes)
    planned = remat_planner.apply_schedule(net, schedule)
    existing = sum(p.nbytes for p in planned.parameters())
    for _ in range(4):
        planned.zero_grad(set_to_none=False)
        loss_of(planned(X)).backward()
    (message,) = said
    assert f"{existing:,} bytes of gradients" in message
    assert f"{schedule.peak_bytes + existing:,}" in message


@pytest.mark.slow
def test_gradients_that_a_plan_for_accumulation_counts(said):
    planned, _ = planned_net("70%", training=remat_planner.TrainingState(accumulate=True))
    for _ in range(4):
        loss_of(planned(X)).backward()
    assert not said


@pytest.mark.slow
def test_a_plan_for_a_gpu_on_a_cpu(said):
    planned_net("100%", costs="h100")
    assert ["planned for a GPU" in message for message in said] == [True]
    assert "'h100'" in said[0]
