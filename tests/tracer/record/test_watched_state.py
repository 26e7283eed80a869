"""Everything that a forward may change besides its outputs is watched, and put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import DataDependentError, LostHookError, PythonStateError, StateReassignedError
from remat_planner.tracer.record.watched_state import WatchedForward, watched_step


def test_attributes_are_reported_and_put_back():
    model = nn.Linear(2, 2)
    model.calls = 0
    forward = WatchedForward(model, (), {})
    with forward.watching():
        model.calls += 1
        model.last = torch.ones(1)
    assert [name for change in forward.changes for name in change.names] == ["calls", "last"]
    forward.put_back()
    assert model.calls == 0
    assert not hasattr(model, "last")


def test_a_second_forward_starts_from_what_the_first_one_left():
    model = nn.Linear(2, 2)
    model.seen = []
    first = WatchedForward(model, (), {})
    with first.watching():
        model.seen.append(1)
    first.put_back()
    second = WatchedForward(model, (), {}, first.changes)
    with second.watching():
        assert model.seen == [1]
        model.seen.append(2)
    assert [change.after for change in second.changes] == [{0: 1, 1: 2}]
    second.put_back()
    assert model.seen == []


def test_a_reassigned_parameter_is_refused_and_put_back():
    model = nn.Linear(2, 2)
    weight = model.weight
    with pytest.raises(StateReassignedError, match="weight"), watched_step(model, {}):
        model.weight = nn.Parameter(torch.zeros(2, 2))
    assert model.weight is weight


def test_a_hook_that_only_observes_is_refused_and_put_back():
    model = nn.Linear(2, 2)
    handle = model.register_forward_hook(lambda *_: None)
    hook = model._forward_hooks[handle.id]
    with pytest.raises(LostHookError, match="forward hook"), watched_step(model, {}):
        model(torch.ones(1, 2))
    assert model._forward_hooks[handle.id] is hook


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["python", "numpy"])
def test_a_draw_of_python_or_numpy_is_refused(draw: object):
    with pytest.raises(DataDependentError, match="Python or NumPy"), WatchedForward(nn.Linear(1, 1), (), {}).watching():
        draw()


def test_a_draw_of_torch_is_not():
    with WatchedForward(nn.Linear(1, 1), (), {}).watching():
        torch.rand(1)


def test_a_variable_around_a_hook_belongs_to_the_caller_that_defines_it():
    model, calls = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), {"number": 0}

    def scale(_module: nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor:
        calls["number"] += 1
        return args[0] * 2

    model[1].register_forward_pre_hook(scale)
    with pytest.raises(PythonStateError, match=r"calls \(variable of scale\)\['number'\]"):
        capture(model, (torch.ones(1, 2),))
    assert calls == {"number": 0}


class Remembering(nn.Module):
    """Makes a global."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global FRESH
        FRESH = x.detach().mean()  # type: ignore[name-defined]
        return x * 2


def test_a_global_that_the_forward_makes_is_left_behind_by_each_call():
    assert "FRESH" not in globals()
    joint = capture(Remembering(), (torch.ones(2, requires_grad=True),))
    assert "FRESH" not in globals()
    assert joint.effects.keys == joint.reads.written == {__name__: frozenset({"FRESH"})}
