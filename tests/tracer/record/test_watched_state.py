"""Everything that a forward may change besides its outputs is watched, and put back."""

from __future__ import annotations

import functools
import random
from contextlib import suppress
from typing import Any

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
    model.seen = {}
    first = WatchedForward(model, (), {})
    with first.watching():
        model.seen["a"] = "1"
    first.put_back()
    second = WatchedForward(model, (), {}, first.changes)
    with second.watching():
        assert model.seen == {"a": "1"}
        model.seen["b"] = "2"
    assert [change.after for change in second.changes] == [{"a": "1", "b": "2"}]
    second.put_back()
    assert model.seen == {}


@pytest.mark.parametrize("use", [len, bool, list, lambda seen: seen[0], lambda seen: 1 in seen, lambda seen: seen.pop()])
def test_a_list_that_an_earlier_forward_extended_can_be_extended_and_no_more(use):
    model = nn.Linear(2, 2)
    model.seen = []
    first = WatchedForward(model, (), {})
    with first.watching():
        model.seen.append(1)
    first.put_back()
    second = WatchedForward(model, (), {}, first.changes)
    with second.watching():
        model.seen.append(2)
        model.seen += [3]
    second.grown.refuse_used(None)
    assert [change.after for change in second.changes] == [{0: 1, 1: 2, 2: 3}]
    second.put_back()
    third = WatchedForward(model, (), {}, first.changes)
    with third.watching(), suppress(PythonStateError):
        use(model.seen)
    with pytest.raises(PythonStateError, match="seen"):
        third.grown.refuse_used(None)
    third.put_back()
    assert model.seen == []


def test_a_list_that_grows_by_another_name_is_refused():
    model = nn.Linear(2, 2)
    seen = model.seen = []
    extend = seen.extend
    first = WatchedForward(model, (), {})
    with first.watching():
        extend([1])
    first.put_back()
    second = WatchedForward(model, (), {}, first.changes)
    with second.watching():
        extend([2])
    with pytest.raises(PythonStateError, match="seen"):
        second.grown.refuse_used(None)
    second.put_back()
    assert seen == []


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
        return args[0] * calls["number"]

    model[1].register_forward_pre_hook(scale)
    with pytest.raises(PythonStateError, match=r"calls \(variable of .*scale\)\['number'\]"):
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


class WithTensors(nn.Module):
    """A function that the test gives, of the model and a tensor; a table in which parameters can be looked up."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.layer, self.function, self.table = nn.Linear(2, 2), function, dict[Any, float]()
        self.layer.weight.rate = 3.0  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, self.layer(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _, h: (h, lambda: h * 2), "returns a function that holds tensors"),
        (lambda _, h: (h, (h * k for k in (1, 2))), "returns a generator that holds tensors"),
        (lambda m, h: h * m.table.get(m.layer.weight, 1.0), "look up parameters or buffers in table"),
    ],
)
def test_tensors_where_a_captured_step_could_not_put_them_are_refused(function: Any, message: str):
    model = WithTensors(function)
    model.table[model.layer.weight] = 2.0
    with pytest.raises(PythonStateError, match=message):
        capture(model, (torch.ones(1, 2),))


def test_a_stand_in_has_the_attributes_and_the_identity_of_its_parameter():
    model = WithTensors(lambda m, h: h * m.layer.weight.rate * m.table[id(m.layer.weight)])
    model.table[id(model.layer.weight)] = 2.0
    joint = capture(model, (torch.ones(1, 2),))
    assert [node.args[1] for node in joint.ops if node.target is torch.ops.aten.mul.Tensor][:2] == [3.0, 2.0]
    assert "layer.weight.__dict__" in joint.reads.seen


@functools.lru_cache
def triangle(size: int) -> torch.Tensor:
    return torch.ones(size, size).tril()


@pytest.mark.slow
def test_a_cached_function_keeps_no_fakes_and_is_a_constant_once_it_is_filled():
    triangle.cache_clear()
    model = WithTensors(lambda _, h: h @ triangle(2))
    with pytest.raises(PythonStateError, match=r"triangle for the first time.*lru_cache"):
        capture(model, (torch.ones(1, 2),))
    assert type(triangle(2)) is torch.Tensor
    assert triangle.cache_info().misses == 1
    joint = capture(model, (torch.ones(1, 2),))
    assert triangle(2).equal(torch.ones(2, 2).tril())
    assert torch.ops.aten.tril.default not in [node.target for node in joint.ops]


def test_a_constant_out_of_a_cached_function_may_be_returned():
    """It is at the end of the graph of a forward, and of that of a step."""

    @functools.lru_cache
    def ramp(size: int) -> torch.Tensor:
        return torch.linspace(0.0, 1.0, size)

    ramp(2)
    ramp(3)
    model = WithTensors(lambda _, h: (h * ramp(2), ramp(3), ramp(3)))
    joint = capture(model, (torch.ones(1, 2),), loss=lambda out: out[0].sum())
    assert torch.ops.aten.linspace.default not in [node.target for node in joint.ops]


def test_a_cached_function_that_eager_calls_anew_in_each_step_is_part_of_the_step():
    @functools.lru_cache(maxsize=1)
    def ramp(size: int) -> torch.Tensor:
        return torch.linspace(0.0, 1.0, size)

    @functools.lru_cache
    def places(mask: torch.Tensor) -> torch.Tensor:
        return mask.cumsum(-1)

    def forward(m: nn.Module, h: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(h)
        return (h * ramp(2) * places(mask) + places(mask)).sum() * ramp(1)

    model = WithTensors(forward)
    for _ in range(2):  # not because the first capture has left anything
        targets = [node.target for node in capture(model, (torch.ones(1, 2),)).ops]
        assert targets.count(torch.ops.aten.linspace.default) == 2
        assert targets.count(torch.ops.aten.cumsum.default) == 1
    assert type(ramp(1)) is torch.Tensor


def test_a_cached_function_of_a_parameter_is_refused_as_eager_finds_its_result_later():
    doubled = functools.lru_cache(lambda weight: weight * 2)
    with pytest.raises(PythonStateError, match=r"for the first time.*lru_cache"):
        capture(WithTensors(lambda m, h: (h @ doubled(m.layer.weight)).sum()), (torch.ones(1, 2),))
