"""Planned steps with operators that take functions: loops and branches have eager's bits, whichever branch runs later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from remat_planner import apply_schedule, plan, verify
from remat_planner.tracer import capture
from tests.tracer.cases import Written, linear, mean_square

pytestmark = pytest.mark.slow  # torch.compile takes a second for each
Between = Callable[..., torch.Tensor]


def _branch(m: Written, h: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.cond(h.sum() > 0, lambda y: (y * m.scale).sin(), lambda y: m.d(y), (h,))
    return result


def _branch_of_input(m: Written, h: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.cond(positive, lambda y: (y * m.scale).sin(), lambda y: y.cos(), (h,))
    return result


STEPS: dict[str, tuple[Between, tuple[Any, ...]]] = {
    "a branch by activations": (_branch, ()),
    "a branch by an input": (_branch_of_input, (torch.tensor(True),)),
    "scan": (lambda m, h: scan(lambda c, y: (c * m.scale + y, c * y), h[0] * 1, h)[1], ()),
    "while_loop": (lambda _, h: while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y.sin()), (torch.tensor(0), h))[1], ()),
}


def _model(between: Between) -> Written:
    def forward(m: Written, x: torch.Tensor, *more: Any) -> torch.Tensor:
        for layer in (m.a, m.b):
            x = between(m, torch.tanh(layer(x)), *more)
        return mean_square(x.sin())

    torch.manual_seed(0)
    scale = torch.nn.Parameter(torch.randn(16))
    return Written(forward, a=linear(), b=linear(), d=linear(), scale=scale)


@pytest.mark.parametrize("name", ["a branch by activations", "scan", "while_loop"])
def test_the_least_budget_has_eagers_bits_and_is_kept(name: str):
    between, more = STEPS[name]
    model, args = _model(between), (torch.randn(8, 16), *more)
    schedule = plan(model, args, budget="min", time_limit=2, verify=False)
    verified = verify(model, schedule, args)
    assert verified.identical, verified.differences
    assert verified.within_budget


@pytest.mark.slow(on_request=True)
def test_the_other_branch_runs_later_as_in_eager():
    between, more = STEPS["a branch by an input"]
    models = [_model(between), _model(between)]
    x = torch.randn(8, 16)
    planned = apply_schedule(models[1], plan(models[1], (x, *more), budget="100%", time_limit=2))
    for args in ((x, *more), (-x, *(~flag for flag in more)), (x, *more)):
        gradients = []
        for model, called in zip(models, (models[0], planned), strict=True):
            model.zero_grad()
            called(*args).backward()
            gradients.append([p.grad for p in model.parameters()])
        assert [g is None for g in gradients[0]] == [g is None for g in gradients[1]]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None)


def test_a_branch_by_activations_is_one_operator_that_may_run_again():
    joint = capture(_model(_branch), (torch.randn(8, 16),))
    branches = [node for node in joint.ops if getattr(node.target, "__name__", "") == "cond"]
    assert len(branches) == 4  # two forward, two backward
    assert not any(node.meta["pinned"] for node in branches)
    assert all("test_higher_order.py" in node.meta["source"] for node in branches)
