"""Audits while a model trains: they find what cannot be watched, never stop a sound training, and leave no trace."""

from __future__ import annotations

import contextvars
import copy
import ctypes
import decimal
import gc
import io
import math
import os
import random
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remat_planner import AuditError, apply_schedule, plan
from remat_planner.planner.apply import planned_call
from remat_planner.tracer import record_forward
from remat_planner.tracer.record.shown_warnings import shown_warnings_kept
from tests.planner.runtime.audited import Net, X, planned


def scaled_by(read: Callable[[Net], Any]) -> Callable[[Net, torch.Tensor], torch.Tensor]:
    return lambda net, h: h * float(read(net))


def _library() -> types.ModuleType:
    """A module of an installed package whose function reads a global of its own."""
    module = types.ModuleType("some_library")
    path = f"{os.sep}site-packages{os.sep}some_library.py"
    module.__file__ = path
    exec(compile("STATE = [1.0]\ndef read(): return STATE[0]\n", path, "exec"), vars(module))
    return module


class Unwatched:
    """Places that a watch of Python state cannot see or does not look at."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scale.txt"
        self.file.write_text("1")
        self.number = ctypes.c_int(1)
        self.text = io.StringIO("1")
        self.local = threading.local()
        self.local.value = 1
        self.variable: contextvars.ContextVar[int] = contextvars.ContextVar("scale", default=1)
        self.start = time.monotonic()


PLACES: dict[str, tuple[Callable[[Unwatched], Any], Callable[[Unwatched], Any]]] = {
    "a number in C": (lambda u: u.number.value, lambda u: setattr(u.number, "value", 2)),
    "a file": (lambda u: u.file.read_text(), lambda u: u.file.write_text("2")),
    "a buffer of text": (lambda u: len(u.text.getvalue()), lambda u: u.text.write("12")),
    "a thread's own": (lambda u: u.local.value, lambda u: setattr(u.local, "value", 2)),
    "a context variable": (lambda u: u.variable.get(), lambda u: u.variable.set(2)),
    "the time": (lambda u: 1 + (time.monotonic() > u.start + 3600), lambda u: setattr(u, "start", -math.inf)),
    "the decimal context": (lambda _: 1 + (decimal.getcontext().prec == 9), lambda _: setattr(decimal.getcontext(), "prec", 9)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("place", PLACES)
def test_it_finds_what_nobody_watches(place: str, tmp_path: Path):
    read, change = PLACES[place]
    with decimal.localcontext():
        hidden = Unwatched(tmp_path)
        box = ctypes.py_object(hidden)  # the watch sees a pointer only
        net = Net(scaled_by(lambda _: read(box.value)))
        ours, unaudited = planned(net), planned(copy.deepcopy(net), audit=False)
        for _ in range(3):
            ours(X).sum().backward()
        change(hidden)
        before = [p.grad.clone() for p in ours.parameters() if p.grad is not None]
        with pytest.raises(AuditError) as raised:
            ours(X)
        unaudited(X)  # as it was asked to
    assert raised.value.model == "Net"
    assert raised.value.differences[0].startswith("aten.mul.Tensor(_, 1.0), now aten.mul.Tensor(_, 2.0) in the model itself")
    assert "test_audit.py:" in raised.value.differences[0]
    assert "audit=False" in str(raised.value)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, ours.parameters(), strict=True))


@pytest.mark.usefixtures("each_step")
def test_it_finds_what_a_library_keeps_for_itself():
    library = _library()
    ours = planned(Net(lambda _, h: h * library.read()))
    ours(X)
    ours(X)
    library.STATE[0] = 2.0
    with pytest.raises(AuditError, match=r"1\.0\), now .*2\.0\)"):
        ours(X)
    with pytest.raises(AuditError):  # as long as the training goes on
        ours(X)


def _branch(net: Net, h: torch.Tensor) -> Any:
    kind = net.hidden.value["kind"]
    if kind == "another operator":
        return h.sigmoid().sum()
    if kind == "more operators":
        return h.tanh().sum() * 1
    if kind == "a constant tensor":
        return h.tanh().sum() + torch.tensor([3.0]).sum() - torch.tensor([2.0]).sum()
    if kind == "an attribute":
        net.extra = 3
    if kind == "a read value":
        assert net.flag
    if kind == "it fails":
        raise ValueError("no such kind")
    output = h.tanh().sum() + torch.tensor([2.0]).sum() - torch.tensor([2.0]).sum()
    return {"loss": output} if kind == "the structure" else output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("another operator", r"aten\.tanh\.default\(_\) in the model itself .*, now aten\.sigmoid\.default\(_\)"),
        ("more operators", r", now aten\.mul\.Tensor\(_, 1\)"),
        ("a constant tensor", r"a constant tensor \(float32 \[1\], now other values\)|a constant tensor \(2\.0, now 3\.0\)"),
        ("the structure", "structure of the output"),
        ("an attribute", "the forward now changes extra"),
        ("a read value", "now reads a value at .*test_audit.py"),
        ("it fails", "it can no longer be captured: .*no such kind"),
    ],
)
@pytest.mark.usefixtures("each_step")
def test_it_says_what_differs(kind: str, message: str):
    hidden = ctypes.py_object({"kind": "as planned"})
    net = Net(_branch, hidden=hidden)
    net.register_buffer("flag", torch.tensor(True))
    ours = planned(net, loss=None)
    ours(X)
    ours(X)
    hidden.value["kind"] = kind
    with pytest.raises(AuditError, match=message):
        ours(X)
    assert not hasattr(net, "extra")


class Stateful(nn.Module):
    """Much that a forward can read, write and draw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.register_buffer("flag", torch.tensor(True))
        self.table, self.count, self.state = torch.arange(8.0), torch.zeros(()), torch.ones(8)
        self.kept: list[torch.Tensor] = []
        self.last: Any = None
        self.scale = 1.0
        self.layer.register_forward_hook(lambda _, __, output: output * 2)

    def forward(self, x: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        if self.flag.all():
            x = torch.dropout(x, 0.5, True)
        self.count.add_(1)
        h = self.norm(self.layer(x)) * self.table * self.scale * self.count + self.state
        self.state = h.detach().mean(0)
        self.last, extra["loss"] = h.mean(), h.square().mean()
        self.kept.append(h.sum())
        warnings.warn("from the forward", stacklevel=1)
        return h


def _state(model: nn.Module) -> Any:
    named = {**model.state_dict(keep_vars=True), **{k: v for k, v in vars(model).items() if isinstance(v, torch.Tensor)}}
    tensors = {name: (id(t), t._version, t.clone()) for name, t in named.items()}
    hooks = [tuple(getattr(m, name)) for m in model.modules() for name in ("_forward_hooks", "_forward_pre_hooks")]
    return tensors, hooks, dict(vars(model)), list(model.kept)  # type: ignore[call-overload]


@pytest.mark.slow
def test_it_leaves_no_trace():
    torch.manual_seed(0)
    model = Stateful()
    arguments = (X, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule = plan(model, arguments, budget="200%", solver="none", loss=torch.sum, verify=False)
    ours = apply_schedule(model, schedule)
    x = torch.randn(4, 8)
    ours(x, {})
    joint = planned_call(ours).programs[0].joint
    before, again = _state(model), {}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    callbacks, modes = gc.callbacks[:], torch.is_grad_enabled()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        found = joint.forward.differences(record_forward(joint, joint.forward, (x, again), {}))
    assert found == ()
    assert shown == []
    tensors, *others = _state(model)
    assert others == list(before[1:])
    assert all(tensors[k][:2] == v[:2] and torch.equal(tensors[k][2], v[2]) for k, v in before[0].items())
    assert again == {}
    assert (states[0], states[1]) == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())
    assert (callbacks, modes) == (gc.callbacks, torch.is_grad_enabled())


def test_it_holds_no_input_of_the_step():
    torch.manual_seed(0)
    ours = planned(Net(lambda net, h: h * 2 if net.flag.all() else h, flag=nn.Buffer(torch.tensor(True))))
    joint = planned_call(ours).programs[0].joint
    x = torch.randn(4, 8)
    memory = weakref.ref(x.untyped_storage())
    gc.disable()
    try:
        record_forward(joint, joint.forward, (x,), {})
        del x
        assert memory() is None
    finally:
        gc.enable()


def _warn() -> None:
    warnings.warn("once", stacklevel=1)


def test_warnings_that_were_shown_stay_shown(monkeypatch: pytest.MonkeyPatch):
    shown: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: shown.append(str(message)))
        _warn()
        with shown_warnings_kept():
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                _warn()
            _warn()
        _warn()
    assert [text for text in shown if text] == ["once"]


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
def test_casts_that_other_code_shares_stay_in_the_cache(audits: list[Any]):
    torch.manual_seed(0)
    model, beside = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 8)

    def gradient(called: nn.Module) -> torch.Tensor:
        for _ in range(3):
            beside.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                first = beside(X)  # casts the weight: the second read below shares this cast
                loss = (first * called(X)).sum() + beside(X * 3).square().sum()
            loss.backward()
        assert beside.weight.grad is not None
        return beside.weight.grad.clone()

    expected = gradient(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours = planned(model)
    assert torch.equal(gradient(ours), expected)
    assert len(audits) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("table", [2.0, torch.full((8,), 2.0)])
def test_a_cache_is_read_once_evaluation_or_the_caller_has_filled_it(table: Any, audits: list[Any]):
    def cached(net: Net, h: torch.Tensor) -> torch.Tensor:
        if net.cache is None:
            net.cache = torch.ones(8) * 2
        return h * net.cache * net.table

    net = Net(cached, cache=None, table=table)
    ours = planned(net)
    ours(X)
    ours(X)
    net.eval()(X)
    assert net.cache is not None
    net.train()
    assert torch.equal(ours(X), net(X))
    net.cache = torch.ones(8) * 3
    assert torch.equal(ours(X), net(X))
    assert audits


def _update(net: Net, h: torch.Tensor) -> torch.Tensor:
    net.s.mul_(0.5).add_(h.detach().mean(0))
    return h * net.s


def _carry(net: Net, h: torch.Tensor) -> torch.Tensor:
    h, net.s = h * net.s, h.detach().mean(0)
    return h


def _choose(net: Net, h: torch.Tensor) -> torch.Tensor:
    return (h * net.one, h * net.s * net.t)[1]


def _ones(value: float = 1.0) -> torch.Tensor:
    return torch.full((8,), value)


def _nothing(_: Net) -> None:
    pass


# What a forward makes of tensors in Python state, what there is, and what happens between two steps.
TENSORS: dict[str, tuple[Callable[[Net, torch.Tensor], Any], Callable[[], dict[str, Any]], list[Callable[[Net], Any]]]] = {
    "an update": (_update, lambda: {"s": _ones()}, [_nothing]),
    "a state that is carried": (_carry, lambda: {"s": _ones()}, [_nothing]),
    "another tensor": (
        lambda net, h: h * net.s[0],
        lambda: {"s": [_ones()]},
        [lambda net: net.s.__setitem__(0, _ones(2.0)), lambda net: net.s[0].fill_(3.0)],
    ),
    "two that become one, and one that becomes two": (
        lambda net, h: h * net.s + net.t,
        lambda: {"s": _ones(), "t": _ones()},
        [lambda net: setattr(net, "t", net.s), lambda net: setattr(net, "t", _ones(2.0))],
    ),
    "two that share memory": (
        lambda net, h: h * net.s + net.t,
        lambda: {"s": _ones(), "t": _ones()},
        [lambda net: setattr(net, "t", net.s[:])],
    ),
    "two buffers that become one": (
        _choose,
        lambda: (lambda one, two: {"one": nn.Buffer(one), "two": nn.Buffer(two), "s": one, "t": two})(
            nn.Buffer(_ones()), nn.Buffer(_ones(2.0))
        ),
        [lambda net: vars(net).update(s=net.two), lambda net: vars(net).update(t=net.one)],
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("what", TENSORS)
def test_tensors_in_python_state(what: str, audits: list[Any], said: list[str]):
    function, attributes, changes = TENSORS[what]
    hidden = ctypes.py_object({"scale": 1.0})
    net = Net(lambda net, h: net.work(net, h * hidden.value["scale"]), work=function)
    vars(net).update({k: v for k, v in attributes().items() if not isinstance(v, nn.Buffer)})
    for name, buffer in attributes().items():
        setattr(net, name, buffer) if isinstance(buffer, nn.Buffer) else vars(net).__setitem__(name, buffer)
    eager = copy.deepcopy(net)
    ours = apply_schedule(net, plan(net, (X,), budget="300%", solver="none", loss=torch.sum, verify=False))
    for change in (_nothing, *changes):
        change(net), change(eager)
        for _ in range(3):
            assert torch.equal(ours(X), eager(X))
    assert len(audits) >= 2 * (len(changes) + 1)
    assert not [text for text in said if "audited" in text]
    hidden.value["scale"] = 2.0
    with pytest.raises(AuditError, match=r"aten\.mul\.Tensor\(_, 1\.0\), now aten\.mul\.Tensor\(_, 2\.0\)"):
        ours(X)


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
def test_values_that_come_again_are_no_difference(audits: list[Any]):
    def read(net: Net, h: torch.Tensor) -> torch.Tensor:
        if int(net.n) % 2:
            h.sigmoid()
        return h * 2

    net = Net(read, n=nn.Buffer(torch.tensor(0)))
    ours = planned(net)
    for value in (0, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2):
        net.n.fill_(value)
        ours(X)
    assert len(audits) == 1 + 3  # the other values are new
    assert len(planned_call(ours).programs) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
def test_a_value_that_was_seen_to_be_harmless_is_no_difference(audits: list[Any]):
    net = Net(lambda net, h: (h.detach(), h * 2)[1] if net.mode == "one" else h * 2, mode="one")
    ours = planned(net)
    for mode in ("one", "one", "two", "two", "two"):
        net.mode = mode
        ours(X)
    assert len(audits) == 3  # "two" was captured anew, which is an audit itself
    assert len(planned_call(ours).programs) == 1
