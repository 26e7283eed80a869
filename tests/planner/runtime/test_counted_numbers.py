"""Integers that each forward counts up: a planned step counts as eager does, and what uses one is refused by name."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import PythonStateError
from tests.planner.runtime.planned_net import equal, gradients, planned

CALLS = 0
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """One layer; ``count`` runs in each forward, and what it returns is part of the output."""

    of_all: ClassVar[int] = 0

    def __init__(self, count: Callable[[Net], Any]) -> None:
        super().__init__()
        self.a, self.count = nn.Linear(4, 3), count
        self.n, self.items, self.other, self.texts = 5, collections.Counter(), [0, 7], []

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"loss": self.a(x).square().mean(), "more": self.count(self)}


def counts(m: Net) -> None:
    global CALLS
    m.n += 1
    m.items["steps"] += 2
    m.other[1] = 3 + m.other[1] - 1
    Net.of_all += 1
    CALLS += 1


def counted(model: nn.Module, own: Net) -> Any:
    global CALLS
    CALLS = Net.of_all = 0
    found = []
    for step in range(4):
        model(X)["loss"].backward()
        found.append((own.n, dict(own.items), list(own.other), Net.of_all, CALLS, type(own.n)))
        if step == 1:
            own.n = 20  # a new epoch
    return found


def test_a_planned_step_counts_as_eager_does(caplog: pytest.LogCaptureFixture) -> None:
    model = Net(counts)
    eager = copy.deepcopy(model)
    expected = counted(eager, eager)
    ours = planned(model, (X,))
    assert counted(ours, model) == expected
    assert equal(gradients(model), gradients(eager))
    assert not caplog.records, "nothing is captured again"


def _copied(m: Net) -> None:
    m.n += 1
    m.other[0] = m.n


_USED: dict[str, Callable[[Net], Any]] = {
    "a branch": lambda m: setattr(m, "n", m.n + 1 if m.n < 100 else 0),
    "a text": lambda m: (setattr(m, "n", m.n + 1), m.texts.append(f"step {m.n}")),
    "a product": lambda m: setattr(m, "n", m.n * 2),
    "returned": lambda m: (setattr(m, "n", m.n + 1), m.n)[1],
    "returned in an object": lambda m: (setattr(m, "n", m.n + 1), SimpleNamespace(step=m.n))[1],
    "kept elsewhere": _copied,
    "an index": lambda m: (setattr(m, "n", m.n + 1), [0] * 9)[1][m.n],
}


@pytest.mark.parametrize("count", _USED.values(), ids=_USED.keys())
def test_a_counted_number_that_is_used_is_refused(count: Any) -> None:
    model = Net(count)
    with pytest.raises(PythonStateError, match="changes Python state from step to step"):
        capture(model, (X,))
    assert (model.n, model.texts, model.other) == (5, [], [0, 7])
