"""Training loops that keep values in Python: the planned model follows what the forward reads, and leaves the same behind."""

from __future__ import annotations

import collections
import copy
import itertools
import random
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule, plan
from remat_planner.tracer import capture
from remat_planner.tracer.errors import CaptureError, DataDependentError, PythonStateError

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
COLLECTED: list[torch.Tensor] = []
SETTINGS = {"gain": 1.0}


class Net(nn.Module):
    """Two layers, and whatever a test hangs on it."""

    def __init__(self, forward: Callable[..., Any], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.function = forward
        for name, value in attributes.items():
            setattr(self, name, copy.deepcopy(value))

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


Step = Callable[[Net, int], torch.Tensor]


def trained(model: nn.Module, step: Step) -> list[torch.Tensor | None]:
    """Loss and gradients of three steps, and the parameters at the end."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen: list[torch.Tensor | None] = []
    for k in range(3):
        optimizer.zero_grad()
        loss = step(model, k)  # type: ignore[arg-type]
        loss.backward()
        seen += [loss.detach().clone(), *(None if p.grad is None else p.grad.clone() for p in model.parameters())]
        optimizer.step()
    return seen + [p.detach().clone() for p in model.parameters()]


def assert_trains_as_eager(make: Callable[[], Net], args: Callable[[], tuple[Any, ...]], step: Step) -> None:
    torch.manual_seed(0)
    eager = make()
    torch.manual_seed(0)
    model = make()
    expected = trained(eager, step)
    planned = apply_schedule(model, plan(model, args(), budget="100%", solver="none", loss=mean_square))
    for ours, theirs in zip(trained(planned, step), expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


def mean_square(output: Any) -> torch.Tensor:
    return (output if isinstance(output, torch.Tensor) else output["y"]).square().mean()


def hidden(m: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(m.a(x))


@pytest.mark.slow
def test_an_auxiliary_loss_in_an_attribute() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.aux = h.abs().mean()
        return m.b(h)

    assert_trains_as_eager(lambda: Net(forward, aux=0.0), lambda: (X,), lambda m, _: mean_square(m(X)) + m.aux)


@pytest.mark.slow
def test_an_auxiliary_loss_that_only_some_steps_use() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.aux = h.abs().mean()
        return m.b(h)

    assert_trains_as_eager(
        lambda: Net(forward, aux=0.0), lambda: (X,), lambda m, k: mean_square(m(X)) + (m.aux if k == 1 else 0)
    )


@pytest.mark.slow
def test_a_loss_that_reads_what_the_forward_left() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.aux = h.abs().mean()
        return m.b(h)

    torch.manual_seed(0)
    eager = Net(forward, aux=0.0)
    model = copy.deepcopy(eager)
    expected = trained(eager, lambda m, _: mean_square(m(X)) + m.aux)
    schedule = plan(model, (X,), budget="100%", solver="none", loss=lambda y: mean_square(y) + model.aux)
    ours = trained(apply_schedule(model, schedule), lambda m, _: mean_square(m(X)) + m.aux)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))  # type: ignore[arg-type]


@pytest.mark.slow
def test_auxiliary_losses_in_a_global_list() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        COLLECTED.append(h.abs().mean())
        return m.b(h)

    def step(m: Net, _: int) -> torch.Tensor:
        COLLECTED.clear()
        return mean_square(m(X)) + sum(COLLECTED)

    COLLECTED.clear()
    assert_trains_as_eager(lambda: Net(forward), lambda: (X,), step)
    COLLECTED.clear()
    plan(Net(forward), (X,), budget="100%", solver="none", loss=mean_square)
    assert COLLECTED == []


@pytest.mark.slow
def test_auxiliary_losses_in_a_list_of_the_callers() -> None:
    def forward(m: Net, x: torch.Tensor, losses: list[torch.Tensor]) -> torch.Tensor:
        h = hidden(m, x)
        losses.append(h.abs().mean())
        return m.b(h)

    def step(m: Net, _: int) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        return mean_square(m(X, losses)) + sum(losses)

    assert_trains_as_eager(lambda: Net(forward), lambda: (X, []), step)


def test_a_dictionary_of_the_callers_that_the_forward_fills() -> None:
    def forward(m: Net, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch["h"] = hidden(m, batch["x"])
        batch["y"] = m.b(batch["h"])
        return batch

    def step(m: Net, _: int) -> torch.Tensor:
        batch = {"x": X}
        m(batch)
        return mean_square(batch["y"])

    assert_trains_as_eager(lambda: Net(forward), lambda: ({"x": X},), step)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "read", "change"),
    [
        ({"config": types.SimpleNamespace(gain=1.0)}, lambda m: m.config.gain, lambda m, k: setattr(m.config, "gain", 1.0 + k)),
        ({"table": {"gain": [1.0]}}, lambda m: m.table["gain"][0], lambda m, k: m.table["gain"].__setitem__(0, 1.0 + k)),
        ({}, lambda _: SETTINGS["gain"], lambda _, k: SETTINGS.__setitem__("gain", 1.0 + k)),
    ],
    ids=["object", "nested containers", "global"],
)
def test_numbers_that_the_training_loop_changes(attributes: dict[str, Any], read: Any, change: Any) -> None:
    def step(m: Net, k: int) -> torch.Tensor:
        change(m, k)
        return mean_square(m(X))

    SETTINGS["gain"] = 1.0
    try:
        assert_trains_as_eager(lambda: Net(lambda m, x: m.b(hidden(m, x)) * read(m), **attributes), lambda: (X,), step)
    finally:
        SETTINGS["gain"] = 1.0


TABLES = {"table": torch.ones(4)}


def _replace_attribute(m: Net, table: torch.Tensor) -> None:
    m.table = table


def _replace_item(m: Net, table: torch.Tensor) -> None:
    m.tables[0] = table


def _replace_entry(m: Net, table: torch.Tensor) -> None:
    m.named["table"] = table


def _replace_global(_: Net, table: torch.Tensor) -> None:
    TABLES["table"] = table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "read", "replace"),
    [
        ({"table": torch.ones(4)}, lambda m: m.table, _replace_attribute),
        ({"tables": [torch.ones(4)]}, lambda m: m.tables[0], _replace_item),
        ({"named": collections.UserDict(table=torch.ones(4))}, lambda m: m.named["table"], _replace_entry),
        ({}, lambda _: TABLES["table"], _replace_global),
    ],
)
def test_a_tensor_that_is_no_buffer_is_replaced(attributes: dict[str, Any], read: Any, replace: Any) -> None:
    def step(m: Net, k: int) -> torch.Tensor:
        replace(m, torch.full((4,), 1.0 + k))
        return mean_square(m(X))

    assert_trains_as_eager(lambda: Net(lambda m, x: m.b(hidden(m, x)) * read(m), **attributes), lambda: (X,), step)


@pytest.mark.slow
def test_a_tensor_that_is_replaced_by_an_equal_one_and_then_changed() -> None:
    def step(m: Net, k: int) -> torch.Tensor:
        if k == 0:
            m.table = torch.ones(4)
        else:
            m.table.mul_(2)
        return mean_square(m(X))

    assert_trains_as_eager(lambda: Net(lambda m, x: m.b(hidden(m, x)) * m.table, table=torch.ones(4)), lambda: (X,), step)


def test_a_copy_reads_its_own_tensors() -> None:
    torch.manual_seed(0)
    model = Net(lambda m, x: m.b(hidden(m, x)) * m.table, table=torch.ones(4))
    copied = copy.deepcopy(apply_schedule(model, plan(model, (X,), budget="100%", solver="none", loss=mean_square)))
    copied.table.mul_(3)
    assert torch.equal(copied(X), model(X) * 3)


def test_nan_among_the_constants_is_no_difference() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        return m.b(hidden(m, x)) + torch.tensor([float("nan"), 1.0, 2.0, 3.0]).nan_to_num()

    assert_trains_as_eager(lambda: Net(forward), lambda: (X,), lambda m, _: mean_square(m(X)))


@pytest.mark.slow
def test_a_number_in_an_object_that_is_an_argument() -> None:
    options = types.SimpleNamespace(gain=1.0)

    def step(m: Net, k: int) -> torch.Tensor:
        options.gain = 1.0 + k
        return mean_square(m(X, options))

    assert_trains_as_eager(lambda: Net(lambda m, x, o: m.b(hidden(m, x)) * o.gain), lambda: (X, options), step)


def test_statistics_in_containers_are_there_after_a_planned_step() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.stats = {"mean": h.detach().mean(), "shape": tuple(h.shape), "parts": [h.detach().amax(), 1]}
        m.space.last = h.detach()
        return m.b(h)

    torch.manual_seed(0)
    eager = Net(forward, stats=None, space=types.SimpleNamespace(last=None))
    model = copy.deepcopy(eager)
    planned = apply_schedule(model, plan(model, (X,), budget="100%", solver="none", loss=mean_square))
    eager(X), planned(X)
    assert torch.equal(planned.stats["mean"], eager.stats["mean"])
    assert planned.stats["shape"] == eager.stats["shape"]
    assert torch.equal(planned.stats["parts"][0], eager.stats["parts"][0])
    assert torch.equal(planned.space.last, eager.space.last)


def test_a_ring_of_recent_outputs_grows_as_in_eager() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        h = hidden(m, x)
        m.recent.append(h.detach().mean())
        return m.b(h)

    torch.manual_seed(0)
    eager = Net(forward, recent=collections.deque(maxlen=2))
    model = copy.deepcopy(eager)
    planned = apply_schedule(model, plan(model, (X,), budget="100%", solver="none", loss=mean_square))
    for _ in range(3):
        eager(X), planned(X)
    assert len(planned.recent) == 2
    assert all(torch.equal(a, b) for a, b in zip(planned.recent, eager.recent, strict=True))


def _counts(m: Net, x: torch.Tensor) -> torch.Tensor:
    m.counts["steps"] += 1
    return m.b(hidden(m, x)) * m.counts["steps"]


def _reads_the_last(m: Net, x: torch.Tensor) -> torch.Tensor:
    h = hidden(m, x)
    y = m.b(h) + (m.last[-1] if m.last else 0)
    m.last.append(y.detach())
    return y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forward", "attributes", "name"),
    [
        (_counts, {"counts": collections.Counter()}, r"counts\['steps'\]"),
        (_reads_the_last, {"last": []}, "last"),
    ],
)
def test_state_that_the_next_step_reads_is_refused_by_name(forward: Any, attributes: dict[str, Any], name: str) -> None:
    model = Net(forward, **attributes)
    with pytest.raises(PythonStateError, match=name):
        plan(model, (X,), budget="100%", solver="none", loss=mean_square)
    assert not model.counts if "counts" in attributes else model.last == []


def test_a_generator_of_the_models_own_is_refused() -> None:
    import random

    model = Net(lambda m, x: m.b(hidden(m, x)) * m.random.random(), random=random.Random(0))
    state = model.random.getstate()
    with pytest.raises(CaptureError, match=r"random"):
        plan(model, (X,), budget="100%", solver="none", loss=mean_square)
    assert model.random.getstate() == state


def test_a_forward_that_varies_by_itself_is_refused() -> None:
    model = Net(lambda m, x: m.b(hidden(m, x)) * time.monotonic())
    with pytest.raises(DataDependentError, match="recorded twice"):
        plan(model, (X,), budget="100%", solver="none", loss=mean_square)


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


def test_a_loss_that_reads_a_cache_is_refused() -> None:
    def forward(self: Net, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = torch.arange(4.0)
        return self.b(self.a(x).tanh()) * self.scale

    model = Net(forward, scale=None)
    with pytest.raises(PythonStateError, match="scale"):
        plan(model, (X,), budget="100%", loss=lambda output: mean_square(output * model.scale))


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

    with pytest.raises(CaptureError, match=rf"test_python_state.py:\d+.*{named}"):
        capture(Net(forward), (X,), loss=mean_square)
