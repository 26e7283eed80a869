"""Modules that the model does not register (a teacher in a list, a global): planned steps read and leave what eager does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule, plan, verify
from remat_planner.tracer.errors import ModelNotSupportedError
from tests.planner.runtime.tensors_in_places import Net, X, assert_equal, mean_square, planned, step

TEACHER: Any = None


class Scale(nn.Module):
    """Multiplies, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.calls = 1.0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.scale


def teacher() -> nn.Sequential:
    """Frozen, with statistics and children."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(Scale())).requires_grad_(False)


def in_list(m: Any, h: torch.Tensor) -> torch.Tensor:
    return m.s[0](h)


def in_global(m: Any, h: torch.Tensor) -> torch.Tensor:
    return TEACHER(h)


def hooked(t: nn.Sequential) -> None:
    t[0].register_forward_hook(lambda *call: call[-1] * 2)


CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "nothing": lambda t: None,
    "an attribute of a child": lambda t: setattr(t[2][0], "scale", 3.0),
    "values of a parameter": lambda t: t[0].weight.mul_(0.5),
    "memory of a parameter": lambda t: setattr(t[0].weight, "data", torch.ones(4, 4)),
    "a parameter": lambda t: setattr(t[0], "weight", nn.Parameter(torch.ones(4, 4), False)),
    "the mode": lambda t: t.eval(),
    "a hook": hooked,
}


def test_a_teacher_in_a_list_that_changes_between_steps():
    torch.manual_seed(0)
    eager = Net(in_list, s=[teacher()])
    model = planned(copy.deepcopy(eager), "120%")
    for name, change in CHANGES.items():
        for net in (model, eager):
            with torch.no_grad():
                change(net.s[0])
        assert_equal(step(model), step(eager))
        assert_equal(list(model.s[0].state_dict().values()), list(eager.s[0].state_dict().values()))
        calls = [[m.calls for m in net.s[0].modules() if isinstance(m, Scale)] for net in (model, eager)]
        assert calls[0] == calls[1], name


def test_a_global_teacher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{__name__}.TEACHER", teacher())
    before = copy.deepcopy(TEACHER.state_dict())
    model = Net(in_global)
    schedule = plan(model, (X,), budget="100%", loss=mean_square, solver="none", verify=False)
    assert verify(model, schedule, (X,)).identical
    assert_equal(list(TEACHER.state_dict().values()), list(before.values()))
    assert TEACHER[2][0].calls == 0


def test_a_teacher_that_could_train_is_used_without_gradients():
    def between(m: Any, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return h * m.s[0](h)

    torch.manual_seed(0)
    eager = Net(between, s=(nn.Linear(4, 4),))
    model = planned(copy.deepcopy(eager))
    for _ in range(3):
        assert_equal(step(model), step(eager))
        with torch.no_grad():
            for net in (model, eager):
                net.s[0].weight.lerp_(net.a.weight, 0.5)


def test_one_that_would_train_is_refused_by_name():
    with pytest.raises(ModelNotSupportedError, match=r"sends gradients into s\[0\]\.weight, s\[0\]\.bias: no parameter"):
        planned(Net(in_list, s=[nn.Linear(4, 4)]))


class Given(nn.Module):
    """Calls a module that is an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, given: Any) -> torch.Tensor:
        return mean_square(given(self.layer(x)))


def test_a_module_that_is_an_argument_may_be_another_one_or_change():
    torch.manual_seed(0)
    one, other = (nn.Sequential(nn.Linear(4, 4)).requires_grad_(False) for _ in range(2))
    eager = Given()
    model = copy.deepcopy(eager)
    schedule = plan(model, (X, one), budget="100%", solver="none", verify=False)
    ours = apply_schedule(model, schedule, audit=False)
    for given in (one, one, other, one):
        values = [net(X, given) for net in (ours, eager)]
        assert torch.equal(*values)
        with torch.no_grad():
            one[0].weight.mul_(2)
