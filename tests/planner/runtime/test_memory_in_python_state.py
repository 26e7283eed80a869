"""Tensors in Python state that share memory, come and go, or decide a branch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule, plan
from remat_planner.planner.runtime.planned_module import call_of
from remat_planner.tracer.errors import UnsupportedOperatorError
from tests.planner.runtime.tensors_in_places import Net, X, assert_equal, mean_square, moved, ones, planned, step, twos


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
