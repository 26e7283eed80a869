"""torch.compile before and around a planned module: refused with advice, or left uncompiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import apply_schedule, verify
from remat_planner.tracer import capture, lower
from remat_planner.tracer.errors import ModelNotSupportedError
from tests.planner.random_schedules import random_steps, schedule_of


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.dropout(torch.tanh(self.inner(x)), 0.5, self.training)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x).square().mean()


def build() -> tuple[Net, torch.Tensor]:
    torch.manual_seed(0)
    return Net(), torch.randn(4, 8)


def compiled_module(model: Net) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: Net) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_forward(model: Net) -> nn.Module:
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model


def compiled_block(model: Net) -> nn.Module:
    model.blocks[1].compile(backend="eager")
    return model


_ADVICE = {
    compiled_module: "_orig_mod",
    compiled_in_place: "leave that call out",
    compiled_forward: "leave the forward uncompiled",
    compiled_block: r"module 'blocks\.1'",
}


@cache
def planned_once(regions: str | None) -> remat_planner.Schedule | remat_planner.RegionSchedule:
    model, x = build()
    return remat_planner.plan(model, (x,), budget="100%", time_limit=1, regions=regions)


@pytest.mark.slow
@pytest.mark.parametrize("compile_it", _ADVICE)
@pytest.mark.parametrize("regions", [None, "blocks.*"])
def test_a_compiled_model_is_refused_with_what_to_do(compile_it: Callable[[Net], nn.Module], regions: str | None):
    model, x = build()
    schedule = planned_once(regions)
    compiled = compile_it(model)
    wanted = f"(?s){_ADVICE[compile_it]}.*compiler=.inductor"
    calls: dict[str, Callable[[], Any]] = {
        "plan": lambda: remat_planner.plan(compiled, (x,), budget="100%", regions=regions and f"*{regions}"),
        "apply": lambda: apply_schedule(compiled, schedule),
        "verify": lambda: verify(compiled, schedule, (x,)),
    }
    if regions is None:
        calls["trace"] = lambda: remat_planner.trace(compiled, (x,), costs="h100")
    elif compile_it is compiled_module:
        del calls["plan"]  # no module has these names in it: it is refused as that
    for name, call in calls.items():
        with pytest.raises(ModelNotSupportedError, match=wanted) as caught:
            call()
        assert caught.value.kind == "torch.compile", name
    assert remat_planner.apply_schedule(build()[0], schedule) is not None


@pytest.mark.slow
def test_the_rest_around_regions_may_be_compiled():
    model, x = build()
    model.head.compile(backend="eager")
    schedule = remat_planner.plan(model, (x,), budget="100%", time_limit=1, regions="blocks.*")
    assert verify(model, schedule, (x,)).identical
    with pytest.raises(ModelNotSupportedError, match="module 'head'"):
        remat_planner.plan(model, (x,), budget="100%")


def test_a_compiled_function_in_the_forward_is_refused_at_its_line():
    inner = torch.compile(torch.tanh, backend="eager")

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return inner(self.a(x)).sum()

    with pytest.raises(ModelNotSupportedError, match="calls a function compiled") as caught:
        capture(Calls(), (torch.randn(2, 4),))
    assert caught.value.kind == "torch.compile"
    assert f"test_torch_compile.py:{Calls.forward.__code__.co_firstlineno + 1}" in str(caught.value)


@pytest.mark.slow
def test_a_disabled_forward_is_no_compiled_one():
    model, x = build()
    model.forward = torch.compiler.disable(model.forward)  # type: ignore[method-assign]
    assert capture(model, (x,)).ops


@pytest.mark.slow
@pytest.mark.parametrize("regions", [False, True])
def test_torch_compile_leaves_a_planned_module_to_its_schedule(regions: bool):
    """Draws are repeated in the backward, so anything compiled into the forward would show in the gradients."""
    model, x = build()
    eager = copy.deepcopy(model)
    if regions:
        planned = apply_schedule(model, remat_planner.plan(model, (x,), budget="100%", time_limit=1, regions="blocks.*"))
    else:
        joint = capture(model, (x,))
        graph = lower(joint).graph
        steps = random_steps(graph, 1, evict=1.0, evict_again=0.1)
        planned = apply_schedule(model, schedule_of(joint, steps, graph=graph))
    compiled_operators: list[str] = []

    def backend(module: torch.fx.GraphModule, _: Any) -> Any:
        compiled_operators.extend(str(node.target) for node in module.graph.nodes if node.op.startswith("call"))
        return module.forward

    for called in (eager, torch.compile(planned, backend=backend)):
        torch.manual_seed(3)
        for _ in range(2):
            called(x).backward()
    for ours, theirs in zip(model.parameters(), eager.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert not any(name in operator for name in ("tanh", "dropout", "bernoulli", "addmm") for operator in compiled_operators)
