"""Threads that train at once: several models, or one."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.runtime.calling_threads import CallingThreads
from remat_planner.tracer import capture
from tests.planner.runtime.planned_net import planned

_STEPS = 12


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))


def _batches(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(32, 8, generator=generator) for _ in range(_STEPS)]


def _in_threads(*work: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _train(model: nn.Module, batches: list[torch.Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.usefixtures("each_step")
def test_two_models_are_audited_in_two_threads(said: list[str]):
    models = [_net(), _net()]
    eager = copy.deepcopy(models)
    ours = [planned(model, (_batches(0)[0],), loss=lambda y: y.square().mean()) for model in models]
    _in_threads(*[lambda k=k: _train(ours[k], _batches(k)) for k in range(2)])
    for k in range(2):
        _train(eager[k], _batches(k))
        assert all(map(torch.equal, models[k].parameters(), eager[k].parameters()))
    assert not said


@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("first", [True, False])
def test_one_model_is_called_in_two_threads(first: bool):
    model, batches = _net(), _batches(0)
    expected = [torch.autograd.grad(model(x).square().mean(), [*model.parameters()]) for x in batches]
    if first:
        ours = remat_planner.budgeted(model, "min", time_limit=1)
    else:
        ours = planned(model, (batches[0],), loss=lambda y: y.square().mean())
    found = {}
    parameters = [*model.parameters()]  # while one thread plans, the model has stand-ins

    def work(thread: int) -> None:
        for k in range(thread, _STEPS, 2):
            loss = ours(batches[k]).square().mean()
            found[k] = torch.autograd.grad(loss, parameters)

    _in_threads(lambda: work(0), lambda: work(1))
    assert all(all(map(torch.equal, found[k], expected[k])) for k in range(_STEPS))


def test_another_thread_steps_its_optimizer_while_a_loss_is_captured():
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)

    def loss(y: torch.Tensor) -> torch.Tensor:
        _in_threads(optimizer.step)
        return y.square().mean()

    assert capture(_net(), (_batches(0)[0],), loss=loss).loss is not None


def test_a_thread_of_autograds_is_none_of_the_callers():
    threads, inside = CallingThreads(), []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda _: inside.append(threads.are_several()))
    assert not threads.are_several()
    _in_threads(x.sum().backward)
    assert inside == [False]
    _in_threads(lambda: inside.append(threads.are_several()))
    assert inside == [False, True]
    assert threads.are_several(), "the first thread is one of two now"
