"""A training step that runs without the plan is told once; whatever else runs without it is not."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

import remat_planner

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)

    def step(self, x: torch.Tensor) -> torch.Tensor:
        return self(x).square().mean()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def planned_net() -> tuple[nn.Module, nn.Module]:
    net = Net()
    schedule = remat_planner.plan(net, (X,), budget="100%", time_limit=1, verify=False)
    return net, remat_planner.apply_schedule(net, schedule)


@pytest.mark.slow
@pytest.mark.parametrize(
    "output",
    [
        lambda _, planned: planned.features(X),
        lambda _, planned: planned.head(planned.body(X)),
        lambda net, _: net(X),
        lambda _, planned: planned.eval()(X),
        lambda _, planned: copy.deepcopy(planned).features(X),
    ],
    ids=["another method", "submodules", "the original model", "evaluation mode", "a copy"],
)
def test_a_step_without_the_plan(said, output):
    for _ in range(2):
        output(*planned_net()).square().mean().backward()
    assert ["ran without its plan" in message for message in said] == [True, True]  # once for each module


@pytest.mark.parametrize("kept", [False, True])
def test_a_step_after_what_apply_schedule_returned_is_dropped(said, kept):
    net, planned = planned_net()
    if not kept:
        del planned
    for _ in range(2):
        net(X).sum().backward()
    (message,) = said
    assert ("nothing refers" in message and "test_unplanned.py:" in message) is not kept


def test_a_planned_module_that_has_trained_may_be_dropped(said):
    net, planned = planned_net()
    planned(X).sum().backward()
    del planned
    net(X).sum().backward()
    assert not said


def test_a_step_in_evaluation_mode_after_planned_ones(said):
    _, planned = planned_net()
    planned(X).sum().backward()
    planned.eval()
    for _ in range(2):
        planned(X).sum().backward()
    (message,) = said
    assert "evaluation mode" in message


@pytest.mark.slow
def test_what_is_no_training_step(said):
    net, planned = planned_net()
    with torch.no_grad():
        planned.features(X)
        planned.eval()(X)
    planned(X)  # evaluated with gradients enabled
    planned.train()
    remat_planner.verify(planned, remat_planner.plan(net, (X,), budget="100%", time_limit=1, verify=False), (X,))
    assert any(p._backward_hooks for p in planned.parameters())  # still watched
    planned.step(X).backward()  # a method that calls the planned module
    planned.features(X).sum().backward()
    assert not said


def test_a_model_without_its_schedule_is_no_longer_watched(said):
    net, planned = planned_net()
    assert remat_planner.remove_schedule(planned) is net
    net(X).sum().backward()
    assert not said


def test_the_hooks_go_when_the_planned_module_is_called():
    _, planned = planned_net()
    pickle.loads(pickle.dumps(planned.state_dict()))
    planned(X)
    assert all(p._backward_hooks is None for p in planned.parameters())  # an empty registry would be asked in each backward


def test_the_watch_does_not_keep_the_model_allocated():
    net, planned = planned_net()
    alive = weakref.ref(net)
    gc.disable()
    try:
        del net, planned
        remembered = alive()
    finally:
        gc.enable()
    assert remembered is None


def test_gradients_arrive_as_without_a_watch():
    torch.manual_seed(0)
    eager = Net()
    torch.manual_seed(0)
    _, planned = planned_net()
    eager.features(X).sum().backward()
    planned.features(X).sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(eager.body.parameters(), planned.body.parameters(), strict=True))
