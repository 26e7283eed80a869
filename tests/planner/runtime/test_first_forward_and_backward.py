"""Python state that a first forward fills, and what code in the backward reads and leaves."""

from __future__ import annotations

import itertools
import random
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule, plan
from remat_planner.tracer import capture
from remat_planner.tracer.errors import CaptureError, DataDependentError, PythonStateError
from tests.planner.runtime.python_state_models import SETTINGS, Net, X, assert_trains_as_eager, hidden, mean_square


@pytest.mark.slow
def test_caches_that_the_first_forward_fills() -> None:
    def forward(self: Net, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = torch.arange(16.0) / 16
        if 4 not in self.masks:
            self.masks[4] = torch.ones(4) * 2
        return self.b((self.a(x) * self.scale).tanh()) * self.masks[4]

    assert_trains_as_eager(
        lambda: Net(forward, scale=None, masks={}),
        lambda: (X,),
        lambda model, _: mean_square(model(X)),
    )


CACHED: dict[str, Callable[[Net, torch.Tensor], torch.Tensor]] = {
    "of an input": lambda _, x: x[0, 0] * 2,
    "of a buffer": lambda self, _: self.table * 2,
    "of a parameter": lambda self, _: self.b.bias.detach() * 2,
    "of random draws": lambda *_: torch.rand(4),
    "of a view written into": lambda _, x: _written(x),
}


def _written(x: torch.Tensor) -> torch.Tensor:
    whole = torch.zeros(2, 2)
    whole[0].copy_(x[0, :2])
    return whole.view(-1)


@pytest.mark.slow
@pytest.mark.parametrize("what", CACHED)
def test_a_cache_of_what_the_first_step_had_is_kept(what: str) -> None:
    """Each planned call cannot compute it for itself: inputs, parameters and buffers are others then."""

    def forward(self: Net, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = CACHED[what](self, x)
        return self.b(self.a(x).tanh()) * self.scale

    def model() -> Net:
        net = Net(forward, scale=None)
        net.register_buffer("table", torch.ones(4))
        return net

    found = []
    for is_planned in (False, True):
        torch.manual_seed(0)
        net = called = model()
        if is_planned:
            called = apply_schedule(net, plan(net, (X,), loss=mean_square, budget="100%"))
        optimizer, losses = torch.optim.SGD(net.parameters(), 0.1), []
        torch.manual_seed(1)
        for step in range(4):
            loss = mean_square(called(X + step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            net.table.add_(1)
            losses.append(loss.item())
        found.append((losses, net.scale.tolist()))
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_table_by_types_gets_no_entry_for_the_captures_tensors() -> None:
    """As einops finds the backend of each type of tensor, and einx, which copies its table first."""
    table: dict[object, str] = {torch.Tensor: "torch"}

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        found = table.setdefault(type(x), "torch"), table.setdefault((type(x), 2), "torch")
        if type(x) not in net.kinds.of:
            net.kinds = types.SimpleNamespace(of={**net.kinds.of, type(x): "torch"})
        return net.b(torch.tanh(net.a(x))).square().mean() * len(found)

    net = Net(forward, kinds=types.SimpleNamespace(of={}))
    net(X)
    planned = apply_schedule(net, plan(net, (X,), budget="100%"))
    planned(X).backward()
    assert list(net.kinds.of) == [torch.Tensor]
    assert list(table) == [torch.Tensor, (torch.Tensor, 2)]


INSTALLED = itertools.count()


@pytest.mark.slow
@pytest.mark.parametrize("eager_is_first", [False, True])
def test_what_a_first_forward_installs_is_installed_once(eager_is_first: bool) -> None:
    """As libraries install hooks, whose keys are never given twice."""

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        if not net.is_ready:
            net.table[next(INSTALLED)] = "a hook"
            net.is_ready = True
        return net.b(torch.tanh(net.a(x))).square().mean() * len(net.table)

    net = Net(forward, is_ready=False, table={})
    schedule = plan(net, (X,), budget="100%", verify=False)
    if eager_is_first:
        net(X)
    planned = apply_schedule(net, schedule)
    for _ in range(3):
        planned(X).backward()
    assert (len(net.table), net.is_ready) == (1, True)
    assert torch.equal(planned(X), net(X))


def test_a_loss_may_read_a_cache() -> None:
    def forward(self: Net, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = torch.arange(4.0)
        return self.b(self.a(x).tanh()) * self.scale

    model = Net(forward, scale=None)
    expected = torch.autograd.grad(mean_square(model(X) * model.scale), model.a.weight)
    model.scale = None
    planned = apply_schedule(model, plan(model, (X,), budget="100%", loss=lambda output: mean_square(output * model.scale)))
    assert model.scale is None
    for _ in range(2):
        output = planned(X)
        assert torch.equal(model.scale, torch.arange(4.0))
        assert torch.equal(*expected, *torch.autograd.grad(mean_square(output * model.scale), model.a.weight))


class Reversed(torch.autograd.Function):
    """The reversed gradient of domain adaptation, by a weight that training anneals."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        ctx.module = module
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return -gradient * ctx.module.reversal, None


def test_what_code_in_the_backward_reads_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "gain", 1.0)

    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = Reversed.apply(hidden(m, x), m)
        m.sign = -1.0
        h.register_hook(lambda gradient: gradient * m.options["clip"] * m.sign)
        y = m.b(h)
        y.grad_fn.register_hook(lambda found, _: tuple(None if g is None else g * SETTINGS["gain"] for g in found))
        return y

    def step(m: Net, k: int) -> torch.Tensor:
        m.reversal, m.options["clip"], SETTINGS["gain"] = (0.1, 1.0, 1.0) if k == 0 else (0.2, 0.5 + (k > 1), float(k))
        return mean_square(m(X))

    assert_trains_as_eager(lambda: Net(forward, reversal=0.1, sign=1.0, options={"clip": 1.0}), lambda: (X,), step)


def _stored(m: Net, gradient: torch.Tensor) -> torch.Tensor:
    m.norms.append(gradient.norm())
    return gradient * 2


def _counted(m: Net, gradient: torch.Tensor) -> torch.Tensor:
    return gradient * (2 if m.calls > 2 else 1)


def _drawn(_: Net, gradient: torch.Tensor) -> torch.Tensor:
    return gradient * random.random()


@pytest.mark.parametrize(
    ("hook", "error", "named"),
    [
        (_stored, PythonStateError, r"norms\[0\]"),
        (_counted, PythonStateError, "calls"),
        (_drawn, DataDependentError, "backward draws"),
    ],
)
def test_code_in_the_backward_that_changes_or_draws_is_refused(hook: Callable[..., Any], error: type, named: str) -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        m.calls += 1
        h = hidden(m, x)
        h.register_hook(lambda gradient: hook(m, gradient))
        return m.b(h)

    model = Net(forward, norms=[], calls=0)
    with pytest.raises(error, match=named):
        capture(model, (X,), loss=mean_square)
    assert (model.norms, model.calls) == ([], 0)


def _halves_a_gradient(m: Net, _: torch.Tensor) -> None:
    m.b.weight.register_hook(lambda gradient: gradient / 2)


def _acts_after_a_gradient(m: Net, _: torch.Tensor) -> None:
    m.b.weight.register_post_accumulate_grad_hook(lambda _: None)


def _retains_a_gradient(_: Net, h: torch.Tensor) -> None:
    h.retain_grad()


@pytest.mark.parametrize(
    ("does", "named"),
    [
        (_halves_a_gradient, "registers a hook on a parameter"),
        (_acts_after_a_gradient, "registers a hook on a parameter"),
        (_retains_a_gradient, "retain_grad"),
    ],
)
def test_what_a_forward_asks_of_later_gradients_is_refused(does: Callable[[Net, torch.Tensor], None], named: str) -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        does(m, h)
        return m.b(h)

    with pytest.raises(CaptureError, match=rf"test_first_forward_and_backward.py:\d+.*{named}"):
        capture(Net(forward), (X,), loss=mean_square)
