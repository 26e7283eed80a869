"""Training loops that send gradients to some outputs, in turns or in several backwards: as eager does."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.codegen import cuts
from remat_planner.planner.errors import UnexpectedGradientError
from tests.planner.runtime.planned_net import equal, gradients, planned, same_state

Loop = Callable[[nn.Module, nn.Module, torch.Tensor], Any]


class Heads(nn.Module):
    """Two heads, the trunk's result, the first head's result without history, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        h = torch.tanh(self.trunk(x))
        first = self.first(h).sin()
        return {"first": first, "second": self.second(h).cos(), "hidden": h, "seen": first.detach(), "kind": 3}


def in_turns(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    optimizer = torch.optim.AdamW(own.parameters(), lr=0.1, weight_decay=0.5)
    for name in ("first", "second", "first"):
        optimizer.zero_grad()
        called(x)[name].square().sum().backward()
        optimizer.step()


def in_two_backwards(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    output = called(x)
    output["first"].sum().backward(retain_graph=True)
    (output["second"].sum() + output["hidden"].square().sum()).backward()


def of_some_parameters(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    output = called(x)
    output["second"].sum().backward(inputs=[own.second.weight, own.trunk.bias])


def of_a_parameter_that_is_not_reached(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    (found,) = torch.autograd.grad(called(x)["first"].sum(), [own.second.weight], allow_unused=True)
    assert found is None
    with pytest.raises(RuntimeError, match="appears to not have been used"):
        torch.autograd.grad(called(x)["first"].sum(), [own.second.weight])


def with_hooks(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    """Hooks run for the parameters that the loss reaches, and for no other."""
    ran: list[str] = []
    for name, parameter in own.named_parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: ran.append(name))
    called(x)["first"].sum().backward()
    assert sorted(ran) == ["first.bias", "first.weight", "trunk.bias", "trunk.weight"]


def with_a_change_of_what_is_not_read(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    output = called(x)
    with torch.no_grad():
        own.second.weight.add_(1)
    output["first"].sum().backward()


def through_the_detached_output(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    output = called(x)
    assert not output["seen"].requires_grad
    assert output["kind"] == 3
    (output["seen"] * output["second"]).sum().backward()


def with_an_undefined_gradient(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return one * 1

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            return gradient, None

    output = called(x)
    First.apply(output["first"], output["second"]).sum().backward()


def in_two_calls(called: nn.Module, own: nn.Module, x: torch.Tensor) -> Any:
    (called(x)["first"].sum() + called(x * 2)["second"].sum()).backward()


LOOPS: list[Loop] = [
    in_turns,
    in_two_backwards,
    of_some_parameters,
    of_a_parameter_that_is_not_reached,
    with_hooks,
    with_a_change_of_what_is_not_read,
    through_the_detached_output,
    with_an_undefined_gradient,
    in_two_calls,
]


@cache
def planned_in_pieces(calls_between_cuts: int) -> tuple[Heads, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "CALLS_BETWEEN_CUTS", calls_between_cuts)
        torch.manual_seed(0)
        model = Heads()
        return model, planned(model, (torch.randn(3, 6),))


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
@pytest.mark.parametrize("calls_between_cuts", [3, 400])
def test_a_loop_trains_as_in_eager(loop: Loop, calls_between_cuts: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", calls_between_cuts)
    model, ours = copy.deepcopy(planned_in_pieces(calls_between_cuts))
    eager, x = copy.deepcopy(model), torch.randn(3, 6)
    loop(eager, eager, x)
    loop(ours, model, x)
    assert equal(gradients(model), gradients(eager))
    assert same_state(model, eager)


def test_parameters_that_other_outputs_reach_have_another_chain():
    model, x = Heads(), torch.randn(3, 6)
    output = planned(model, (x,))(x)
    nodes = {name: output[name].grad_fn for name in ("first", "second", "hidden")}
    assert len(set(nodes.values())) == 3

    def leaves(node: Any) -> set[str]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        reached, stack = set(), [node]
        while stack:
            for following, _ in stack.pop().next_functions:
                reached.add(names.get(id(getattr(following, "variable", None)), ""))
                stack.append(following)
        return reached - {""}

    assert leaves(nodes["hidden"]) == {"trunk.weight", "trunk.bias"}
    assert leaves(nodes["first"]) == {"trunk.weight", "trunk.bias", "first.weight", "first.bias"}


@pytest.mark.slow
def test_a_gradient_that_comes_when_the_backward_has_begun_is_refused():
    model, x = Heads(), torch.randn(3, 6)
    output = planned(model, (x,))(x)
    losses: list[torch.Tensor] = []
    # Autograd prefers nodes with a higher number, and each thread counts for itself: so this loss has its turn late.
    thread = threading.Thread(target=lambda: losses.append(output["second"].sum()))
    thread.start()
    thread.join()
    with pytest.raises(UnexpectedGradientError, match="had begun") as caught:
        (losses[0] + output["first"].sum()).backward()
    assert caught.value.output == "['second']"


class Balanced(nn.Module):
    """Keeps an auxiliary loss in an attribute, and another one in a list of the caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate, self.auxiliary = nn.Linear(6, 6), nn.Linear(6, 2), 0.0

    def forward(self, x: torch.Tensor, losses: list[torch.Tensor]) -> torch.Tensor:
        chosen = self.gate(x).softmax(-1)
        self.auxiliary = chosen.mean(0).square().sum()
        losses.append(chosen.amax(-1).mean())
        return x + torch.tanh(self.layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("factors", [(0, 0), (0.1, 0), (0, 0.1), (0.1, 0.1)])
def test_losses_that_the_forward_leaves_behind_may_be_added_or_not(factors: tuple[float, float]):
    torch.manual_seed(0)
    model, x = Balanced(), torch.randn(3, 6)
    eager = copy.deepcopy(model)
    ours = planned(model, (x, []), loss=lambda output: output.square().mean())
    for called, own in ((eager, eager), (ours, model)):
        optimizer = torch.optim.AdamW(own.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            losses: list[torch.Tensor] = []
            loss = called(x, losses).square().mean()
            for factor, term in zip(factors, (own.auxiliary, losses[0]), strict=True):
                loss = loss + factor * term if factor else loss
            loss.backward()
            optimizer.step()
    assert equal(gradients(model), gradients(eager))
    assert same_state(model, eager)
    assert (model.gate.weight.grad is None) is (factors == (0, 0))
