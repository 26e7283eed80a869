"""Tensors in Python state that a recorded step reads have stand-ins where that can be, and are constants elsewhere."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer import Joint, capture
from remat_planner.tracer.errors import DataDependentError, InputsDoNotFitError, UnsupportedOperatorError
from remat_planner.tracer.joint import PlaceSlot
from remat_planner.tracer.torch_private import new_fake_mode

X = torch.randn(2, 4)


class Net(nn.Module):
    """A layer, and what a test does with its output."""

    def __init__(self, after: Callable[[Any, torch.Tensor], torch.Tensor], **attributes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.after = after
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self, self.layer(x)).sum()


def names(joint: Joint) -> list[str]:
    return [f"{slot.kind} {slot.name}" for slot in joint.buffers]


def constants(joint: Joint) -> int:
    return sum(node.op == "get_attr" for node in joint.graph.graph.nodes)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each recording that begins."""
    module = sys.modules["remat_planner.tracer.capture"]
    begun: list[Any] = []
    record = module.record
    monkeypatch.setattr(module, "record", lambda *args: (begun.append(args), record(*args))[1])
    return begun


@pytest.mark.slow
def test_it_is_recorded_once_more_for_them(recordings: list[Any]) -> None:
    model = Net(lambda m, h: h * m.s[0] + m.t, s=[torch.ones(4)], t=torch.ones(4))
    joint = capture(model, (X,))
    assert sorted(names(joint)) == ["tensor s[0]", "tensor t"]
    assert constants(joint) == 0
    assert joint.constants["buffers"] == (16, 16)
    assert len(recordings) == 3  # the first one ends with the forward, and the last one is of the forward alone


def test_without_them_it_is_recorded_as_often_as_ever(recordings: list[Any]) -> None:
    capture(Net(lambda _, h: h * torch.tensor(2.0)), (X,))
    assert len(recordings) == 2


@pytest.mark.slow
def test_one_in_two_places_has_one_slot() -> None:
    shared = torch.ones(4)
    joint = capture(Net(lambda m, h: h * m.s * m.t[0], s=shared, t=[shared]), (X,))
    (slot,) = joint.buffers
    assert isinstance(slot, PlaceSlot)
    assert [tie.label for tie in slot.ties] == ["t[0]"]


@pytest.mark.slow
def test_a_parameter_that_is_reached_through_a_closure_is_that_parameter() -> None:
    model = Net(lambda m, h: h * m.scale(1.0))
    weight = model.layer.bias

    def scale(factor: float) -> torch.Tensor:
        return weight * factor

    model.scale = scale
    joint = capture(model, (X,))
    assert names(joint) == []
    assert len(joint.parameters) == len(joint.gradients) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "attributes",
    [
        {"s": functools.partial(torch.mul, torch.ones(4))},
        {"s": functools.partial(lambda table, h: h * next(iter(table)), {torch.ones(4)})},
    ],
    ids=["a partial function", "a set"],
)
def test_one_without_a_place_is_a_constant(attributes: dict[str, Any]) -> None:
    joint = capture(Net(lambda m, h: m.s(h), **attributes), (X,))
    assert names(joint) == []
    assert constants(joint) == 1


def test_tensors_that_each_forward_makes_outside_of_fakes_are_constants() -> None:
    import numpy as np

    joint = capture(Net(lambda _, h: h * torch.from_numpy(np.ones(4, dtype=np.float32))), (X,))
    assert names(joint) == []
    assert constants(joint) == 1


@pytest.mark.slow
def test_one_that_no_stand_in_can_do_for_is_a_constant() -> None:
    def checked(m: Any, h: torch.Tensor) -> torch.Tensor:
        if m.s.__class__ is not torch.Tensor:
            raise ValueError("another kind")
        return h * m.s

    joint = capture(Net(checked, s=torch.ones(4)), (X,))
    assert names(joint) == []
    assert constants(joint) == 1


@pytest.mark.slow
def test_an_error_of_the_model_keeps_its_cause() -> None:
    def failing(m: Any, h: torch.Tensor) -> torch.Tensor:
        raise ValueError(f"no {m.s + 1}")

    with pytest.raises(InputsDoNotFitError) as caught:
        capture(Net(failing, s=torch.ones(4)), (X,))
    assert isinstance(caught.value.__cause__, ValueError)


def test_values_that_cannot_be_known_are_refused_by_name() -> None:
    with pytest.raises(DataDependentError):
        capture(Net(lambda m, h: h * (m.s * h).sum().item(), s=torch.ones(4)), (X,))


def test_a_change_of_a_constant_is_refused_and_not_made() -> None:
    kept = {torch.ones(4)}
    with pytest.raises(UnsupportedOperatorError, match="changes a tensor in place that is no input"):
        capture(Net(lambda m, h: h * next(iter(m.s)).add_(1), s=kept), (X,))
    assert torch.equal(next(iter(kept)), torch.ones(4))


def test_a_change_that_a_read_follows_is_not_made() -> None:
    kept = torch.ones(4)
    joint = capture(Net(lambda m, h: h if m.s.add_(1).sum() > 4 else -h, s=kept), (X,))
    assert torch.equal(kept, torch.ones(4))
    (guard,) = joint.guards.all
    assert guard.expected is True
    assert joint.guards.hold([torch.ones(4)], [X])
    assert not joint.guards.hold([torch.full((4,), -5.0)], [X])
    assert torch.equal(kept, torch.ones(4))


@pytest.mark.slow
def test_a_model_built_of_fakes_has_the_same_step() -> None:
    mode = new_fake_mode()
    make = lambda: Net(lambda m, h: h * m.s, s=torch.ones(4))  # noqa: E731
    with mode:
        fake, inputs = make(), torch.empty(2, 4)
    assert names(capture(fake, (inputs,))) == names(capture(make(), (X,))) == ["tensor s"]
