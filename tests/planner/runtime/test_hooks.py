"""Hooks of parameters, of the planned module and of modules inside of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner import OutputHookError, apply_schedule, plan, remove_schedule
from remat_planner.planner.codegen import cuts
from remat_planner.tracer.errors import LostHookError
from tests.planner.runtime.planned_net import (
    equal,
    gradients,
    planned,
    planned_net,
    replanning,
)


class _Log(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.events.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
def test_gradients_are_handed_over_as_soon_as_they_are_final(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", 1)
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.Tanh())])
    x = torch.randn(2, 8)
    ours = planned(model, (x,), loss=torch.sum)
    log = _Log()
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: log.events.append(f"hook {name}"))
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: log.events.append(f"after {name}"))
    loss = ours(x).sum()
    with log:
        loss.backward()
    multiplications = [k for k, event in enumerate(log.events) if event in ("aten::mm", "aten::addmm")]
    order = [event for event in log.events if event.startswith("after")]
    assert sorted(order) == sorted(f"after {name}" for name, _ in model.named_parameters())
    assert [event.split(".")[0] for event in order] == [f"after {k}" for k in (6, 6, 4, 4, 2, 2, 0, 0)]
    assert log.events.index("after 6.weight") < multiplications[-4]
    assert "aten::clone" not in log.events, "a gradient was copied on its way"


@pytest.mark.parametrize("registered", ["before", "after", "between"])
def test_hooks_on_parameters_run_in_eagers_order(registered: str):
    """They share a list here, and draw random numbers from one generator."""

    def run(budget: str | None) -> tuple[list[str], list[torch.Tensor | None]]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(8, 16), nn.LayerNorm(16), nn.Dropout(0.3), nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU()
        )
        trained, x, order = model, torch.randn(32, 8), []

        def register() -> None:
            for name, parameter in model.named_parameters():
                parameter.register_hook(lambda g, name=name: order.append(name) or g + torch.randn_like(g))
                parameter.register_post_accumulate_grad_hook(lambda p, name=name: order.append(f"after {name}"))

        if registered == "before":
            register()
        if budget is not None:
            trained = apply_schedule(model, plan(model, (x,), budget=budget, costs="h100"))
        if registered == "after":
            register()
        for step in range(3):
            if registered == "between" and step == 1:
                register()
            torch.manual_seed(step)
            trained(x).square().sum().backward()
        return order, gradients(model)

    order, expected = run(None)
    for budget in ("100%", "min"):
        ours, found = run(budget)
        assert ours == order
        assert equal(found, expected)


@pytest.mark.slow
def test_hooks_on_the_planned_module_run_and_do_not_reach_the_model():
    ours, _, x = planned_net()
    calls: list[str] = []
    ours.register_forward_pre_hook(lambda module, args: calls.append("before"))
    ours.register_forward_hook(lambda module, args, output: calls.append("after"))
    ours(x)["loss"].backward()
    assert calls == ["before", "after"]
    remove_schedule(ours)(x)
    assert calls == ["before", "after"]


@pytest.mark.slow
def test_hooks_of_parameters_run_in_every_step():
    ours, eager, x = planned_net()
    calls: dict[str, list[str]] = {"ours": [], "eager": []}
    for name, module in (("eager", eager), ("ours", ours)):
        module.hidden.weight.register_hook(lambda gradient, name=name: calls[name].append("before"))
        module.conv.weight.register_hook(lambda gradient: gradient * 3)
        module.hidden.weight.register_post_accumulate_grad_hook(lambda _, name=name: calls[name].append("after"))
        for seed in (5, 6):
            torch.manual_seed(seed)
            module(x)["loss"].backward()
    assert calls["ours"] == calls["eager"] == ["before", "after"] * 2
    assert equal(gradients(ours), gradients(eager))


@pytest.mark.slow
def test_a_hook_that_comes_later_is_planned_with_or_refused():
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))

    def trained_alike() -> bool:
        for module in (eager, ours):
            module.zero_grad()
            torch.manual_seed(5)
            module(x)["loss"].backward()
        return equal(gradients(ours), gradients(eager))

    handle = ours.hidden.register_forward_hook(lambda module, args, output: None)
    with pytest.raises(LostHookError, match="forward hook of hidden"):
        ours(x)
    handle.remove()
    calls.clear()
    assert trained_alike()
    assert not calls, "without the hook the first plan holds"
    handles = [m.hidden.register_full_backward_hook(lambda _, gradients, __: (gradients[0] * 2,)) for m in (ours, eager)]
    assert trained_alike()
    assert len(calls) == 1
    copied = copy.deepcopy(ours)
    torch.manual_seed(5)
    copied.zero_grad()
    copied(x)["loss"].backward()
    assert equal(gradients(copied), gradients(eager))
    assert len(calls) == 1, "the copy has the same hooks"
    for handle in handles:
        handle.remove()
    assert trained_alike()
    assert len(calls) == 1


class _ReturnsBoth(nn.Module):
    """Returns hidden values, and what it computes from them; and other values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.other = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = self.first(x).tanh()
        return hidden, self.last(hidden), self.other(x)


def _loss_of_all(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return outputs[0].square().mean() + outputs[1].mean() + outputs[2].square().mean()


@pytest.mark.parametrize("asks", [lambda t: t.retain_grad(), lambda t: t.register_hook(lambda g: None)], ids=["retain", "hook"])
def test_a_gradient_of_which_a_part_stays_inside_is_refused_to_hooks(asks: Callable[[torch.Tensor], Any]) -> None:
    model, x = _ReturnsBoth(), torch.randn(3, 4)
    schedule = plan(model, (x,), budget="100%", loss=_loss_of_all, verify=False)
    of_plan = apply_schedule(copy.deepcopy(model), schedule)
    seen: list[torch.Tensor] = []
    outputs = of_plan(x)
    outputs[2].register_hook(seen.append)
    outputs[1].retain_grad()
    _loss_of_all(outputs).backward()
    expected = model(x)
    expected[2].register_hook(seen.append)
    expected[1].retain_grad()
    _loss_of_all(expected).backward()
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(outputs[1].grad, expected[1].grad)
    assert equal(gradients(of_plan), gradients(model))
    outputs = of_plan(x)
    asks(outputs[0])
    with pytest.raises(OutputHookError, match=r"the output \[0\]") as caught:
        _loss_of_all(outputs).backward()
    assert caught.value.output == "[0]"
