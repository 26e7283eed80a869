"""Objects of PyTorch and the standard library that a forward asks are watched by what they answer from."""

from __future__ import annotations

import multiprocessing
import string
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer.python_state import ExecutedCode, PythonReads, Watch

_OPTIMIZER = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
_OTHER = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)


class Asks(nn.Module):
    """Multiplies by the answer of ``thing`` to ``question``."""

    def __init__(self, thing: Any, question: Callable[[Any], float]) -> None:
        super().__init__()
        self.thing, self.question = thing, question

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.question(self.thing)


def _fail(barrier: threading.Barrier) -> None:
    barrier.abort()


@pytest.mark.parametrize(
    ("make", "question", "change"),
    [
        (threading.Event, lambda e: 2.0 if e.is_set() else 1.0, lambda e: e.set()),
        (lambda: threading.Semaphore(2), lambda s: s._value, lambda s: s.acquire()),
        (lambda: threading.Barrier(2), lambda b: 2.0 if b.broken else 1.0, _fail),
        (Future, lambda f: 2.0 if f.done() else 1.0, lambda f: f.set_result(1)),
        (lambda: multiprocessing.Value("d", 1.0), lambda v: v.value, lambda v: setattr(v, "value", 2.0)),
        (lambda: multiprocessing.Array("d", 2), lambda a: 1 + a[0], lambda a: a.__setitem__(0, 1.0)),
        (lambda: string.Template("1"), lambda t: float(t.template), lambda t: setattr(t, "template", "2")),
        (lambda: _OPTIMIZER, lambda o: o.param_groups[0]["lr"], lambda o: o.param_groups[0].update(lr=0.5)),
        (
            lambda: torch.optim.lr_scheduler.StepLR(_OTHER, 1, 0.5),
            lambda s: s.get_last_lr()[0],
            lambda s: (_OTHER.step(), s.step()),
        ),
    ],
)
def test_an_answer_that_changes_is_noticed(
    make: Callable[[], Any], question: Callable[[Any], float], change: Callable[[Any], Any]
) -> None:
    model, executed = Asks(make(), question), ExecutedCode()
    with executed.observed():
        before = model(torch.ones(1))
    watch = Watch(PythonReads.of_code(executed).found_in(model, {}), model)
    assert watch.changed() == ()
    change(model.thing)
    assert not torch.equal(model(torch.ones(1)), before)
    assert any(name.startswith("thing") for name in watch.changed())


def test_what_the_forward_does_not_ask_for_is_not_watched() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    model, executed = Asks(optimizer, lambda o: len(o.defaults)), ExecutedCode()
    with executed.observed():
        model(torch.ones(1))
    watch = Watch(PythonReads.of_code(executed).found_in(model, {}), model)
    optimizer.param_groups[0]["lr"] = 0.1
    assert watch.changed() == ()
