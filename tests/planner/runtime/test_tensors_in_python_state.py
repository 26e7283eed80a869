"""Tensors that a forward finds in plain attributes, lists, objects, globals: a planned call reads what is there."""

from __future__ import annotations

import copy
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from remat_planner import plan, verify
from remat_planner.planner.runtime.planned_module import call_of
from remat_planner.tracer.errors import UnsupportedOperatorError
from tests.planner.runtime.tensors_in_places import Net, X, assert_equal, mean_square, moved, ones, planned, step, twos

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


@pytest.fixture(autouse=True)
def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SCALE", ones())


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


@pytest.mark.slow
@pytest.mark.parametrize("what", PLACES)
def test_another_tensor_in_its_place_is_read_without_another_capture(what: str) -> None:
    read, attributes, put = PLACES[what]
    model = Net(read, **attributes)
    trained = planned(model)
    put(model, twos())
    assert_equal(step(trained), step(model))
    assert len(call_of(trained).programs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", PLACES)
def test_a_number_in_its_place_is_noticed(what: str) -> None:
    read, attributes, put = PLACES[what]
    model = Net(read, **attributes)
    trained = planned(model)
    put(model, 3.0)
    assert_equal(step(trained), step(model))


@pytest.mark.slow
@pytest.mark.parametrize("held", [ones(), [ones()], (ones(),)], ids=["attribute", "list", "tuple"])
def test_a_forward_updates_it_in_place(held: Any) -> None:
    model = Net(moved, s=held)
    trained = planned(model)
    eager = copy.deepcopy(model)
    for _ in range(2):
        assert_equal(step(trained), step(eager))
        assert_equal(pytree.tree_leaves(model.s), pytree.tree_leaves(eager.s))


def replaced_attribute(m: Any, h: torch.Tensor) -> torch.Tensor:
    out = h * m.s
    m.s = m.s * 0.5 + h.detach().mean(0)
    return out


def replaced_item(m: Any, h: torch.Tensor) -> torch.Tensor:
    out = h * m.s[0]
    m.s[0] = h.detach().mean(0)
    return out


def moved_on(m: Any, h: torch.Tensor) -> torch.Tensor:
    out = h * m.s[0] + m.s[1]
    m.s.append(h.detach().mean(0))
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forward", "held"),
    [(replaced_attribute, ones()), (replaced_item, [ones(), None]), (moved_on, deque([ones(), twos()], maxlen=2))],
)
def test_a_forward_leaves_another_one_for_the_next(forward: Callable[[Any, torch.Tensor], torch.Tensor], held: Any) -> None:
    model = Net(forward, s=held)
    trained = planned(model, budget="200%")
    eager = copy.deepcopy(model)
    for _ in range(3):
        assert_equal(step(trained), step(eager))
        assert_equal(pytree.tree_leaves(model.s)[:1], pytree.tree_leaves(eager.s)[:1])
    assert len(call_of(trained).programs) == 1


@pytest.mark.slow
def test_a_variable_of_a_function_that_each_call_sets_anew() -> None:
    def counting() -> Any:
        count = ones()

        def counted(h: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count = count + 1
            return h * count

        counted.kept = "kept"  # type: ignore[attr-defined]
        counted.count = lambda: count  # type: ignore[attr-defined]
        return counted

    model = Net(lambda m, h: m.s(h), s=counting())
    trained = planned(model, budget="200%")
    step(trained)
    step(trained)
    assert model.s.count()[0] == 3
    assert model.s.kept == "kept"


@pytest.mark.slow
def test_a_global_that_is_counted_up() -> None:
    def counted(_: Any, h: torch.Tensor) -> torch.Tensor:
        global SCALE
        SCALE += 1
        return h * SCALE

    model = Net(counted)
    trained = planned(model)
    first = step(trained)
    assert SCALE[0] == 2
    step(trained)
    assert SCALE[0] == 3
    SCALE.fill_(1)
    assert_equal(first, step(model))


@pytest.mark.slow
def test_verify_compares_and_puts_it_back() -> None:
    model = Net(moved, s=ones())
    result = verify(model, plan(model, (X,), budget="100%", solver="none", loss=mean_square, verify=False), (X,))
    assert result.identical
    assert torch.equal(model.s, ones())


@pytest.mark.slow
def test_a_copy_reads_and_updates_its_own() -> None:
    model = Net(moved, s=ones())
    trained = planned(model)
    copied = copy.deepcopy(trained)
    expected = copy.deepcopy(model)
    assert_equal(step(copied), step(expected))
    assert torch.equal(model.s, ones())
    assert torch.equal(copied.s, expected.s)
    assert len(call_of(copied).programs) == 1


def test_an_update_with_a_gradient_is_refused_by_name() -> None:
    def carried(m: Any, h: torch.Tensor) -> torch.Tensor:
        m.s.mul_(0.5).add_(h.mean(0))
        return h * m.s

    model = Net(carried, s=ones())
    with pytest.raises(UnsupportedOperatorError, match="into tensor s, so the next step's backward"):
        planned(model)
    assert not model.s.requires_grad


@pytest.mark.slow
def test_an_update_of_memory_that_another_one_has_is_refused() -> None:
    def updated(m: Any, h: torch.Tensor) -> torch.Tensor:
        m.s.add_(1)
        return h * m.row

    whole = torch.ones(2, 4)
    model = Net(updated, s=whole, row=whole[0])
    with pytest.raises(UnsupportedOperatorError, match="reads a tensor that has the same memory"):
        planned(model)
    assert torch.equal(whole, torch.ones(2, 4))
