"""The loss of a training loop, as a function of the output."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint

from remat_planner import budgeted
from remat_planner.planner.first_step import LossNotSeenError, SeenLoss, watch_loss

LABELS = torch.tensor([0, 0, 0])


def _seen(output: Any, loop: Any) -> SeenLoss | LossNotSeenError:
    found: list[SeenLoss | LossNotSeenError] = []
    stop = watch_loss(output, found.append)
    try:
        loop(output)
    finally:
        stop()
    assert not torch._C._len_torch_function_stack()
    return found[0]


def _output() -> torch.Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True) * 1


@pytest.mark.parametrize(
    "loss",
    [
        lambda y: cross_entropy(y, LABELS),
        lambda y: nn.CrossEntropyLoss()(y.float().view(-1, 5), LABELS) / 4,
        lambda y: mse_loss(y, torch.ones(3, 5)) + y.abs().mean() * torch.tensor(0.1),
        lambda y: y[:, 1:].log_softmax(-1).sum().neg(),
    ],
)
def test_it_is_the_loss(loss: Any) -> None:
    seen = _seen(_output(), lambda y: (y.argmax(), loss(y).backward()))
    assert isinstance(seen, SeenLoss)
    output = _output()
    assert torch.equal(seen(output), loss(output))
    assert seen(output).requires_grad


def test_what_does_not_lead_to_the_loss_is_left_out() -> None:
    seen = _seen(_output(), lambda y: (y.softmax(-1).max(), y.mean().backward()))
    assert isinstance(seen, SeenLoss)
    assert len(seen._calls) == 1


def test_no_tensor_of_the_step_is_kept() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    seen = _seen(_output(), lambda y: cross_entropy(y, labels).backward())
    assert isinstance(seen, SeenLoss)
    tensors = [a for call in seen._calls.values() for a in call.arguments if isinstance(a, torch.Tensor)]
    assert tensors == []


def _one_after_the_other(y: torch.Tensor) -> None:
    y[0].mean().backward(retain_graph=True)
    weight = torch.autograd.grad(y[1].sum(), y, retain_graph=True)[0].norm()
    (y[2].sum() * weight).backward()


def _all_keep_the_graph(y: torch.Tensor) -> None:
    y[0].mean().backward(retain_graph=True)
    y[1].sum().backward(retain_graph=True)


def test_backwards_that_keep_the_graph_are_seen_together() -> None:
    seen, output = _seen(_output(), _one_after_the_other), _output()
    assert isinstance(seen, SeenLoss)
    assert torch.equal(seen(output), output[0].mean() + output[1].sum() + output[2].sum() * torch.ones(5).norm())
    seen = _seen(_output(), _all_keep_the_graph)
    assert isinstance(seen, SeenLoss)
    assert torch.equal(seen(output), output[0].mean() + output[1].sum())


@pytest.mark.parametrize(
    "loop", [lambda y: y.backward(torch.ones_like(y)), lambda y: torch.ones(1, requires_grad=True).backward()]
)
def test_another_backward_is_told(loop: Any) -> None:
    assert isinstance(_seen(_output(), loop), LossNotSeenError)


def test_a_backward_of_another_model_is_passed_over() -> None:
    other = nn.Linear(5, 1)

    def loop(y: torch.Tensor) -> None:
        other(y.detach()).sum().backward()
        y.mean().backward()

    seen, output = _seen(_output(), loop), _output()
    assert isinstance(seen, SeenLoss)
    assert torch.equal(seen(output), output.mean())


def test_two_models_of_one_loop_are_watched() -> None:
    found: list[Any] = []
    one, other = _output(), _output()
    stops = [watch_loss(one, found.append), watch_loss(other, found.append)]
    (one.sum() + other.mean()).backward()
    for stop in stops:
        stop()
    ours = [(seen(torch.ones(3, 5)) - seen(torch.zeros(3, 5))).item() for seen in found]  # the other model's part is a number
    assert sorted(ours) == pytest.approx([1, 15])
    assert not torch._C._len_torch_function_stack()


def test_no_watch_stays_where_a_model_is_dropped() -> None:
    net = budgeted(nn.Linear(3, 3), "1MB", time_limit=1, verify=False)
    net(torch.ones(2, 3))
    assert torch._C._len_torch_function_stack() == 1
    del net
    gc.collect()
    assert not torch._C._len_torch_function_stack()


def test_inside_of_a_mode_nothing_is_watched() -> None:
    found: list[Any] = []
    with torch.device("cpu"):
        stop = watch_loss(_output(), found.append)
    stop()
    assert isinstance(found[0], LossNotSeenError)
    assert torch.ones(1).device.type == "cpu"
    assert not torch._C._len_torch_function_stack()


def test_a_watch_ends_in_the_mode_of_the_loop() -> None:
    stop = watch_loss(_output(), lambda _: None)
    with torch.device("meta"):
        stop()
        assert torch.ones(1).device.type == "meta"
    assert torch.ones(1).device.type == "cpu"
    assert not torch._C._len_torch_function_stack()


def test_a_watch_that_began_in_a_backward_is_gone_after_it() -> None:
    model = torch.nn.Linear(3, 3)
    checkpointed = budgeted(copy.deepcopy(model), "1MB", time_limit=1, verify=False)
    for _ in range(3):
        gradients = []
        for net in (model, checkpointed):
            net.zero_grad()
            checkpoint(net, torch.ones(2, 3, requires_grad=True), use_reentrant=True).square().mean().backward()
            gradients.append(net.weight.grad)
        assert torch.equal(*gradients)
