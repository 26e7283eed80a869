"""Tensors that a forward finds in plain attributes, lists, objects, globals: a planned call reads what is there."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner import apply_schedule, plan

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
SCALE: Any = torch.ones(4)


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale: Any) -> None:
        self.scale = scale


@dataclass(frozen=True)
class Frozen:
    scale: Any


def in_closure(scale: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def scaled(h: torch.Tensor) -> torch.Tensor:
        return h * scale

    def put(value: Any) -> None:
        nonlocal scale
        scale = value

    scaled.put = put  # type: ignore[attr-defined]
    return scaled


class Net(nn.Module):
    """Two layers, and between them what a test says."""

    def __init__(self, between: Callable[[Any, torch.Tensor], torch.Tensor], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = between
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.between(self, torch.tanh(self.a(x)))))


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def planned(model: nn.Module, budget: str = "100%") -> nn.Module:
    return apply_schedule(model, plan(model, (X,), budget=budget, solver="none", loss=mean_square, verify=False))


def step(model: nn.Module) -> list[torch.Tensor]:
    """Loss and gradients of one step."""
    model.zero_grad()
    loss = mean_square(model(X))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    assert all(map(torch.equal, ours, theirs))


def ones() -> torch.Tensor:
    return torch.ones(4)


def twos() -> torch.Tensor:
    return torch.full((4,), 2.0)


def set_global(_: Any, value: Any) -> None:
    globals()["SCALE"] = value


# How it is read, what holds it, and how another one is put there.
PLACES: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], dict[str, Any], Callable[[Any, Any], None]]] = {
    "an attribute": (lambda m, h: h * m.s, {"s": ones()}, lambda m, v: setattr(m, "s", v)),
    "a list": (lambda m, h: h * m.s[1], {"s": [ones(), ones()]}, lambda m, v: m.s.__setitem__(1, v)),
    "a tuple": (lambda m, h: h * m.s[0], {"s": (ones(),)}, lambda m, v: setattr(m, "s", (v,))),
    "a nested dictionary": (lambda m, h: h * m.s["a"]["b"], {"s": {"a": {"b": ones()}}}, lambda m, v: m.s["a"].update(b=v)),
    "an object": (lambda m, h: h * m.s.t, {"s": types.SimpleNamespace(t=ones())}, lambda m, v: setattr(m.s, "t", v)),
    "slots": (lambda m, h: h * m.s.scale, {"s": Slotted(ones())}, lambda m, v: setattr(m.s, "scale", v)),
    "a frozen object": (lambda m, h: h * m.s.scale, {"s": Frozen(ones())}, lambda m, v: setattr(m, "s", Frozen(v))),
    "a global": (lambda m, h: h * SCALE, {}, set_global),
    "a closure": (lambda m, h: m.s(h), {"s": in_closure(ones())}, lambda m, v: m.s.put(v)),
}


@pytest.fixture(autouse=True)
def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SCALE", ones())


@pytest.mark.parametrize("what", PLACES)
def test_another_tensor_or_number_in_its_place_is_read(what: str) -> None:
    read, attributes, put = PLACES[what]
    model = Net(read, **attributes)
    trained = planned(model)
    for value in (twos(), 3.0):
        put(model, value)
        assert_equal(step(trained), step(model))


def test_a_tensor_that_comes_or_goes() -> None:
    model = Net(lambda m, h: h if m.s is None else h * m.s, s=ones())
    trained = planned(model)
    for value in (None, twos(), None):
        model.s = value
        assert_equal(step(trained), step(model))


def test_a_list_that_gets_longer() -> None:
    model = Net(lambda m, h: h * sum(m.s), s=[ones(), ones()])
    trained = planned(model, budget="200%")
    for change in (lambda: model.s.append(twos()), lambda: model.s.pop(0)):
        change()
        assert_equal(step(trained), step(model))


def test_a_list_in_two_places_of_which_one_gets_another() -> None:
    shared = [1.0, 2.0]
    model = Net(lambda m, h: h * m.s[0] + m.t[0], s=shared, t=shared)
    trained = planned(model)
    model.t = [3.0, 4.0]
    assert_equal(step(trained), step(model))


@pytest.mark.parametrize("read", [lambda t: bool(t), lambda t: t.item() > 0, lambda t: t.tolist() > 0])
def test_a_branch_on_its_value(read: Callable[[torch.Tensor], bool]) -> None:
    model = Net(lambda m, h: h * 2 if read(m.s) else h, s=torch.tensor(1.0))
    trained = planned(model)
    for change in (lambda: setattr(model, "s", torch.tensor(0.0)), lambda: model.s.fill_(1.0), lambda: model.s.zero_()):
        change()
        assert_equal(step(trained), step(model))


def test_a_size_that_alone_is_read() -> None:
    model = Net(lambda m, h: h * m.s.shape[0], s=torch.ones(2))
    trained = planned(model)
    model.s = torch.ones(3)
    assert_equal(step(trained), step(model))


def test_the_message_names_it(caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda m, h: (m.s[0], h)[1], s=[None])
    trained = planned(model)
    model.s[0] = ones()
    step(trained)
    assert "changed since the model was captured: s[0]" in caplog.text
