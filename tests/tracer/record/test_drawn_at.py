"""The refusal of a draw of Python's or NumPy's names the line."""

from __future__ import annotations

import inspect
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import PythonDrawError, RandomStateError
from remat_planner.tracer.record import record_step


def _mixed(x: torch.Tensor) -> torch.Tensor:
    share = np.random.beta(1.0, 1.0)  # draws
    return x * share


def _scaled(x: torch.Tensor) -> torch.Tensor:
    shares = [1.0, 2.0]
    random.shuffle(shares)  # draws
    return x * shares[0]


def _of_a_list(x: torch.Tensor) -> torch.Tensor:
    return x * sum([random.random() for _ in range(2)])  # draws


def _backward(x: torch.Tensor) -> torch.Tensor:
    x.register_hook(lambda gradient: gradient * random.random())  # draws
    return x * 2


class _Net(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, 4), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(x)).tanh()


@pytest.mark.parametrize("function", [_mixed, _scaled, _of_a_list, _backward])
def test_the_line_that_draws_is_named(function: Callable[[torch.Tensor], torch.Tensor]):
    lines, first = inspect.getsourcelines(function)
    line = next(number for number, text in enumerate(lines, first) if "# draws" in text)
    before = random.getstate(), np.random.get_state()[1].tobytes(), sys.gettrace()
    with pytest.raises(PythonDrawError, match=rf"^\S*test_drawn_at.py:{line}: the (forward|backward) draws") as caught:
        capture(_Net(function), (torch.randn(2, 4),))
    assert caught.value.source.endswith(f"test_drawn_at.py:{line}")
    assert caught.value.part == ("backward" if function is _backward else "forward")
    assert (random.getstate(), np.random.get_state()[1].tobytes(), sys.gettrace()) == before


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1)], ids=["python", "numpy", "torch"])
def test_a_draw_of_another_thread_is_not_taken_for_one_of_the_forward(
    draw: Callable[[], object], monkeypatch: pytest.MonkeyPatch
):
    original, hits, over = record_step.run_user_code, iter(range(2)), threading.Event()

    def beside_a_draw(*call: Any) -> Any:
        if next(hits, None) is not None:
            other = threading.Thread(target=draw)
            other.start()
            other.join()
        return original(*call)

    monkeypatch.setattr(record_step, "run_user_code", beside_a_draw)
    idle = threading.Thread(target=over.wait)
    idle.start()
    try:
        assert capture(_Net(torch.tanh), (torch.randn(2, 4),)).gradients
    finally:
        over.set()
        idle.join()


def _seeded(x: torch.Tensor) -> torch.Tensor:
    random.seed(3)
    return x * random.random()


def _seeded_in_torch(x: torch.Tensor) -> torch.Tensor:
    list(map(torch.default_generator.manual_seed, [3]))
    return x * 2


@pytest.mark.parametrize(
    ("function", "error"),
    [(_seeded, PythonDrawError), (_seeded_in_torch, RandomStateError)],
)
def test_a_forward_that_seeds_is_seen_beside_other_threads(
    function: Callable[[torch.Tensor], torch.Tensor], error: type[Exception]
):
    over = threading.Event()
    idle = threading.Thread(target=over.wait)
    idle.start()
    try:
        with pytest.raises(error):
            capture(_Net(function), (torch.randn(2, 4),))
    finally:
        over.set()
        idle.join()
