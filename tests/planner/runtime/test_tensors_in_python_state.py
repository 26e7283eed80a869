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
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner import apply_schedule, plan, verify
from remat_planner.planner.runtime.planned_module import call_of
from remat_planner.tracer.errors import UnsupportedOperatorError

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


def moved(m: Any, h: torch.Tensor) -> torch.Tensor:
    average = m.s if isinstance(m.s, torch.Tensor) else m.s[0]
    average.mul_(0.5).add_(h.detach().mean(0))
    return h * average


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


@pytest.mark.slow
@pytest.mark.parametrize("read", [lambda t: t.data, lambda t: t.detach()[0] * torch.ones(4)])
def test_what_has_its_memory_is_read_for_it(read: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Net(lambda m, h: h * read(m.s), s=ones())
    trained = planned(model)
    for change in (lambda: setattr(model, "s", twos()), lambda: model.s.fill_(3.0)):
        change()
        assert_equal(step(trained), step(model))
    assert len(call_of(trained).programs) == 1


def test_a_view_of_a_buffer_that_is_changed_is_refused() -> None:
    def counted(m: Any, h: torch.Tensor) -> torch.Tensor:
        m.table.add_(1)
        return h * m.row

    model = Net(counted)
    model.register_buffer("table", torch.ones(2, 4))
    model.row = model.table[0]
    with pytest.raises(UnsupportedOperatorError, match="a tensor that has the same memory"):
        planned(model)


@pytest.mark.slow
def test_views_of_one_memory_are_read_wherever_it_lies() -> None:
    def counted(m: Any, h: torch.Tensor) -> torch.Tensor:
        m.count.add_(1)
        return h * m.rows[0] + m.rows[1] * m.count

    model = Net(counted, rows=list(torch.ones(2, 4).unbind()), count=torch.zeros(()))
    trained, eager = planned(model), copy.deepcopy(model)
    for change in (
        lambda net: net.rows[0].fill_(3.0),
        lambda net: net.rows.__setitem__(1, twos()),
        lambda net: setattr(net, "rows", list(torch.full((2, 4), 5.0).unbind())),
    ):
        change(model), change(eager)
        assert_equal(step(trained), step(eager))
    assert len(call_of(trained).programs) == 1


@pytest.mark.slow
def test_a_view_of_a_buffer_that_the_step_changes_comes_later() -> None:
    model = Net(lambda m, h: m.norm(h) * m.s, s=ones(), norm=nn.BatchNorm1d(4))
    trained = planned(model, budget="200%")
    step(trained)
    model.s = model.norm.running_mean[:]
    with pytest.raises(UnsupportedOperatorError, match="reads a tensor that has the same memory"):
        trained(X)


@pytest.mark.slow
def test_one_tensor_in_two_places() -> None:
    shared = ones()
    model = Net(lambda m, h: h * m.s + m.t[0], s=shared, t=[shared])
    trained = planned(model, budget="200%")
    for change in (lambda: setattr(model, "s", twos()), lambda: model.t.__setitem__(0, model.s)):
        change()
        assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_two_tensors_that_become_one() -> None:
    model = Net(lambda m, h: h * m.s * (2 if m.s is m.t else 3) + m.t, s=ones(), t=ones())
    trained = planned(model, budget="200%")
    model.t = model.s
    assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_two_tensors_that_get_one_memory_of_which_one_is_changed() -> None:
    def counted(m: Any, h: torch.Tensor) -> torch.Tensor:
        m.s.add_(1)
        return h * m.t

    model = Net(counted, s=ones(), t=ones())
    trained = planned(model, budget="200%")
    step(trained)
    model.s = model.t[:]
    with pytest.raises(UnsupportedOperatorError, match="reads a tensor that has the same memory"):
        trained(X)


@pytest.mark.slow
def test_an_attribute_that_chooses_one_of_the_buffers() -> None:
    model = Net(lambda m, h: h * m.s)
    model.register_buffer("one", ones())
    model.register_buffer("two", twos())
    model.s = model.one
    trained = planned(model)
    model.s = model.two
    assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_a_number_that_chooses_one_of_two_tensors() -> None:
    model = Net(lambda m, h: h * (m.s if m.first else m.t), s=ones(), t=twos(), first=True)
    trained = planned(model)
    for first in (False, True):
        model.first = first
        assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_a_tensor_that_is_an_input_too() -> None:
    model = Net(lambda m, h: h * m.s, s=X.mean(0))
    trained = apply_schedule(model, plan(model, (X,), budget="100%", solver="none", loss=mean_square, verify=False))
    model.s = X[0].clone()
    assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_a_subclass_is_a_constant_that_is_watched() -> None:
    class Named(torch.Tensor):
        pass

    model = Net(lambda m, h: h * m.s.as_subclass(torch.Tensor), s=ones().as_subclass(Named))
    trained = planned(model)
    for change in (lambda: setattr(model, "s", twos().as_subclass(Named)), lambda: model.s.fill_(3.0)):
        change()
        assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_a_hook_that_only_updates_it_has_a_part_in_the_step() -> None:
    model = Net(lambda m, h: h * m.s, s=ones())
    eager = copy.deepcopy(model)
    for net in (model, eager):
        net.a.register_forward_hook(lambda _, __, output, net=net: net.s.add_(output.detach().mean(0)).shape and None)  # type: ignore[misc]
    trained = planned(model)
    for _ in range(2):
        assert_equal(step(trained), step(eager))


@pytest.mark.slow
def test_a_model_by_regions() -> None:
    model = nn.Sequential(*(Net(moved, s=ones()) for _ in range(3)))
    schedule = plan(model, (X,), budget="100%", loss=mean_square, regions="auto", verify=False)
    eager = copy.deepcopy(model)
    trained = apply_schedule(model, schedule)
    for net in (*model, *eager):
        net.s = twos()
    for _ in range(2):
        assert_equal(step(trained), step(eager))


@pytest.mark.slow
def test_a_tensor_that_comes_or_goes(caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda m, h: h if m.s is None else h * m.s, s=ones())
    trained = planned(model)
    for value in (None, twos(), None):
        model.s = value
        assert_equal(step(trained), step(model))
    assert [r.message for r in caplog.records if "another tensor" in r.message] == [
        "another tensor, or none, than when the model was captured: s"
    ]


@pytest.mark.slow
def test_a_list_that_gets_longer() -> None:
    model = Net(lambda m, h: h * sum(m.s), s=[ones(), ones()])
    trained = planned(model, budget="200%")
    for change in (lambda: model.s.append(twos()), lambda: model.s.pop(0)):
        change()
        assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_a_list_in_two_places_of_which_one_gets_another() -> None:
    shared = [1.0, 2.0]
    model = Net(lambda m, h: h * m.s[0] + m.t[0], s=shared, t=shared)
    trained = planned(model)
    model.t = [3.0, 4.0]
    assert_equal(step(trained), step(model))


@pytest.mark.slow
@pytest.mark.parametrize("read", [lambda t: bool(t), lambda t: t.item() > 0, lambda t: t.tolist() > 0])
def test_a_branch_on_its_value(read: Callable[[torch.Tensor], bool]) -> None:
    model = Net(lambda m, h: h * 2 if read(m.s) else h, s=torch.tensor(1.0))
    trained = planned(model)
    for change in (lambda: setattr(model, "s", torch.tensor(0.0)), lambda: model.s.fill_(1.0), lambda: model.s.zero_()):
        change()
        assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_a_name_that_is_put_together() -> None:
    model = Net(lambda m, h: h * getattr(m, f"s{len('12')}"), s2=ones())
    trained = planned(model)
    model.s2 = twos()
    assert_equal(step(trained), step(model))
    assert len(call_of(trained).programs) == 1


@pytest.mark.slow
def test_a_size_that_alone_is_read() -> None:
    model = Net(lambda m, h: h * m.s.shape[0], s=torch.ones(2))
    trained = planned(model)
    model.s = torch.ones(3)
    assert_equal(step(trained), step(model))


@pytest.mark.slow
def test_the_message_names_it(caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda m, h: (m.s[0], h)[1], s=[None])
    trained = planned(model)
    model.s[0] = ones()
    step(trained)
    assert "changed since the model was captured: s[0]" in caplog.text
