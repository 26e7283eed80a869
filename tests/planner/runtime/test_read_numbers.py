"""Numbers that a forward reads from tensors and hands on: each planned step leaves its own, of eager's type and value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.tracer import capture
from remat_planner.tracer.errors import CaptureError, DataDependentError, PythonStateError
from tests.planner.runtime.planned_net import equal, gradients, planned

X = [torch.randn(6, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]
SEEN: dict[str, Any] = {}


class Net(nn.Module):
    """Two layers; ``after`` gets the activations between them, and what it returns is part of the output."""

    steps: ClassVar[list[Any]] = []

    def __init__(self, after: Callable[[Net, torch.Tensor], Any] = lambda *_: None) -> None:
        super().__init__()
        self.a, self.b, self.after = nn.Linear(4, 8), nn.Linear(8, 3), after
        self.log: dict[str, Any] = {}
        self.norms: list[Any] = []

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        h = torch.tanh(self.a(x))
        return {"loss": self.b(h).square().mean(), "more": self.after(self, h)}


def trained(model: nn.Module, own: Net) -> list[Any]:
    """The outputs of three steps, and what each has left behind in ``own``."""
    seen = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for x in X:
        optimizer.zero_grad()
        output = model(x)
        output["loss"].backward()
        seen += [output["loss"].item(), output["more"], copy.deepcopy((own.log, own.norms, Net.steps, SEEN))]
        optimizer.step()
    Net.steps.clear()
    SEEN.clear()
    return seen


def assert_trains_as_eager(model: Net) -> None:
    eager = copy.deepcopy(model)
    expected = trained(eager, eager)
    found = trained(planned(model, (X[0],)), model)
    assert repr(found) == repr(expected)
    assert equal(gradients(model), gradients(eager))


def returned(_: Net, h: torch.Tensor) -> Any:
    return h.max().item(), {"positive": (h > 0).sum().item(), "any": (h > 0).any().item()}


def kept(m: Net, h: torch.Tensor) -> None:
    mean = h.detach().mean()
    m.log["mean"] = mean.item()
    mean.add_(1)
    value = mean.item()
    assert isinstance(value, float)
    assert type(value) is float
    m.log.update(more=value, of_both=[h[0, 0].item(), h[0, 0].item()])
    m.norms.append(h.norm().item())
    Net.steps.append(tuple(h.shape))


@pytest.mark.parametrize("after", [returned, kept])
def test_numbers_that_are_returned_or_kept(after: Any) -> None:
    assert_trains_as_eager(Net(after))


def test_hooks_that_store_what_they_see() -> None:
    model = Net()

    def store(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        SEEN[str(module)] = output.detach().abs().mean().item()

    model.a.register_forward_hook(store)
    model.b.register_forward_hook(lambda *args: SEEN.update(output=args[-1].detach().clone()))
    assert_trains_as_eager(model)


class Scale:
    """A hook with a number that changes between steps. It stores what it sees."""

    def __init__(self) -> None:
        self.factor = 1.0
        self.means: list[float] = []

    def hook(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        self.means.append(output.mean().item())
        return output * self.factor


def test_an_object_whose_method_is_a_hook() -> None:
    losses, means = [], []
    for trained in (lambda model: model, lambda model: planned(model, (X[0],))):
        torch.manual_seed(0)
        model, scale = Net(), Scale()
        model.a.register_forward_hook(scale.hook)
        step = trained(model)
        for factor in (1.0, 2.0):
            scale.factor = factor
            losses.append(step(X[0])["loss"].item())
        means.append(scale.means)
    assert losses[:2] == losses[2:]
    assert means[0] == means[1]
    assert len(means[0]) == 2


def test_a_hook_that_stores_in_the_backward_is_refused() -> None:
    model = Net(lambda m, h: m.log.update(h=h))
    model.a.register_full_backward_hook(lambda *args: model.log.update(gradient=args[1]))
    with pytest.raises(PythonStateError, match=r"log\['gradient'\]"):
        capture(model, (X[0],))


def _tried(m: Net, h: torch.Tensor) -> None:
    try:
        m.log["text"] = "%.3f" % h.mean().item()  # noqa: UP031  this form reads the number in C
    except Exception:
        m.log["text"] = "?"


def _of_the_step_before(m: Net, h: torch.Tensor) -> None:
    m.norms.append(m.log.get("norm"))
    m.log["norm"] = h.norm().item()


_USED: dict[str, Callable[[Net, torch.Tensor], Any]] = {
    "a branch": lambda _, h: 1 if h.mean().item() > 0 else 2,
    "a truth": lambda _, h: bool(h.mean().item()),
    "an operator": lambda _, h: h * h.mean().item(),
    "a new tensor": lambda _, h: torch.full((2,), h.mean().item()),
    "arithmetic": lambda _, h: 1 - h.mean().item(),
    "a largest": lambda _, h: max(0.0, h.mean().item()),
    "a text": lambda _, h: f"{h.mean().item():.3f}",
    "a conversion": lambda _, h: round(h.mean().item(), 3),
    "a method": lambda _, h: h.mean().item().is_integer(),
    "an index": lambda _, h: [1, 2][(h > 9).sum().item()],
    "an array": lambda _, h: np.array([h.mean().item()]),
    "a key": lambda m, h: m.log.update({h.mean().item(): 1}),
    "an error that is caught": _tried,
    "of the step before": _of_the_step_before,
    "an object in an array": lambda _, h: np.array([SimpleNamespace(x=h.mean().item())], dtype=object),
}


@pytest.mark.parametrize("after", _USED.values(), ids=_USED.keys())
def test_a_number_that_is_used_is_refused_at_the_line_that_reads_it(after: Any) -> None:
    model = Net(after)
    with pytest.raises(CaptureError) as refused:
        capture(model, (X[0],))
    if after is not _of_the_step_before:
        assert isinstance(refused.value, DataDependentError)
        assert __file__.rsplit("/", 1)[1] in refused.value.source
    assert (model.log, model.norms) == ({}, [])


class Kept(Net):
    """Keeps activations in a list that two functions of its own name."""

    def __init__(self) -> None:
        super().__init__(lambda m, h: m.keep(h.detach()) if len(h) else m.number())
        kept: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor) -> None:
            kept.append(tensor)

        def number() -> int:
            return len(kept)

        self.keep, self.number = keep, number


def test_a_list_that_two_functions_name(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):  # the functions of another model have the same code
        model = Kept()
        schedule = remat_planner.plan(model, (X[0],), budget="100%", loss=lambda out: out["loss"], time_limit=1, verify=True)
        step = remat_planner.apply_schedule(model, schedule)
        for x in X:
            step(x)
        assert model.number() == len(X)
    assert not [record for record in caplog.records if "captured" in record.message.lower()]
