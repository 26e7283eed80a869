"""Forward and backward of a planned module under autograd: eager's gradients, or a clear error."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule
from remat_planner.planner.errors import (
    BackwardTwiceError,
    ChangedInBetweenError,
    DoubleBackwardError,
    UnexpectedGradientError,
)
from remat_planner.tracer import capture
from tests.planner.random_schedules import schedule_of
from tests.planner.runtime.planned_net import (
    build,
    equal,
    gradients,
    planned,
    planned_net,
    same_state,
)


@pytest.mark.slow
def test_accumulation_and_optimizer_steps():
    ours, eager, x = planned_net()
    for model in (eager, ours):
        torch.manual_seed(5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            for micro in range(2):
                model(x + micro)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=step != 1)
    assert same_state(ours, eager)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_forwards_before_their_backwards(order: tuple[int, int]):
    ours, eager, x = planned_net()
    for model in (eager, ours):
        torch.manual_seed(5)
        losses = [model(x)["loss"], model(x * 2)["loss"]]
        for k in order:
            losses[k].backward()
    assert equal(gradients(ours), gradients(eager))
    assert same_state(ours, eager)


@pytest.mark.slow
def test_two_forwards_in_one_loss():
    ours, eager, x = planned_net()
    for model in (eager, ours):
        torch.manual_seed(5)
        (model(x)["loss"] + model(x * 2)["loss"]).backward()
    assert equal(gradients(ours), gradients(eager))


@pytest.mark.slow
def test_retain_graph_and_a_second_backward():
    ours, eager, x = planned_net()
    for model in (eager, ours):
        torch.manual_seed(5)
        loss = model(x)["loss"]
        loss.backward(retain_graph=True)
        loss.backward(retain_graph=True)
        loss.backward()
    assert equal(gradients(ours), gradients(eager))
    with pytest.raises(BackwardTwiceError, match="retain_graph=True"):
        loss.backward()


@pytest.mark.slow
def test_gradients_of_inputs_and_of_some_parameters():
    model, x = build()
    eager = copy.deepcopy(model)
    ours = planned(model, (x.requires_grad_(),))
    results = []
    for model in (eager, ours):
        torch.manual_seed(5)
        inputs = x.detach().requires_grad_()
        loss = model(inputs)["loss"]
        results.append([*torch.autograd.grad(loss, [inputs, model.head.weight, model.conv.weight])])
        assert all(p.grad is None for p in model.parameters())
    assert equal(results[0], results[1])


@pytest.mark.slow
def test_an_input_with_a_history():
    model, x = build()
    eager = copy.deepcopy(model)
    ours = planned(model, (x.requires_grad_(),))
    results = []
    for model in (eager, ours):
        torch.manual_seed(5)
        leaf = x.detach().requires_grad_()
        model(leaf * 3)["loss"].backward()
        results.append([leaf.grad])
    assert equal(results[0], results[1])


def test_what_only_an_output_without_a_gradient_needs_has_none():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = torch.tanh(self.a(x))
            return h, torch.tanh(self.b(h))

    torch.manual_seed(0)
    model, x = Two(), torch.randn(3, 4)
    eager = copy.deepcopy(model)
    ours = planned(model, (x,))
    for module in (eager, ours):
        module(x)[0].sum().backward()
    assert torch.equal(model.a.weight.grad, eager.a.weight.grad)
    assert model.b.weight.grad is None
    assert eager.b.weight.grad is None


@pytest.mark.slow
def test_a_parameter_changed_between_forward_and_backward_is_named():
    ours, _, x = planned_net()
    loss = ours(x)["loss"]
    with torch.no_grad():
        ours.hidden.weight.add_(1)
    with pytest.raises(ChangedInBetweenError, match=r"parameter hidden\.weight") as caught:
        loss.backward()
    assert caught.value.names == ("parameter hidden.weight",)


def test_a_kept_output_changed_between_forward_and_backward_is_named():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.randn(2, 4)
    joint = capture(model, (x,))
    ours = apply_schedule(model, schedule_of(joint))
    output = ours(x)
    loss = output.sum()
    with torch.no_grad():
        output.mul_(2)
    with pytest.raises(ChangedInBetweenError, match="output"):
        loss.backward()


def test_an_output_that_nothing_keeps_may_be_changed():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 6)), torch.randn(2, 4)
    eager = copy.deepcopy(model)
    ours = planned(model, (x,))
    for module in (eager, ours):
        output = module(x)
        output /= 2
        output.relu_()
        output.backward(torch.ones_like(output))
    assert equal(gradients(ours), gradients(eager))


@pytest.mark.slow
def test_gradients_of_gradients_are_refused():
    ours, _, x = planned_net()
    with pytest.raises(DoubleBackwardError, match="create_graph"):
        torch.autograd.grad(ours(x)["loss"], [ours.head.weight], create_graph=True)


@pytest.mark.slow
def test_a_gradient_that_the_plan_did_not_expect_is_refused():
    ours, _, x = planned_net()
    output = ours(x)
    with pytest.raises(UnexpectedGradientError, match="hidden") as caught:
        (output["loss"] + output["hidden"].sum()).backward()
    assert "hidden" in caught.value.output
