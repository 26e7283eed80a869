"""Captures that are one step, that differ in numbers alone, and that are two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from remat_planner.planner.runtime.same_step import differ_in_numbers_only, same_step
from remat_planner.tracer import capture
from remat_planner.tracer.joint import Joint
from tests.tracer.cases import Written, linear, mean_square

Forward = Callable[[Written, torch.Tensor], Any]


def captured(forward: Forward, *, transposed: bool = False) -> Joint:
    torch.manual_seed(0)
    x = torch.randn(16, 16)
    return capture(Written(forward, a=linear()), (x.t() if transposed else x,), loss=lambda output: mean_square(output[0]))


def scaled(factor: float, note: Any = None) -> Forward:
    return lambda m, x: (m.a(x) * factor, note)


@pytest.mark.slow
def test_the_same_step():
    one, other = captured(scaled(2.0)), captured(scaled(2.0))
    assert same_step(one, other)
    assert differ_in_numbers_only(one, other)


NUMBERS: dict[str, tuple[Forward, Forward]] = {
    "factor": (scaled(2.0), scaled(3.0)),
    "returned": (scaled(2.0, "a"), scaled(2.0, "b")),
    "rate": (lambda m, x: (F.dropout(m.a(x), 0.1), 0), lambda m, x: (F.dropout(m.a(x), 0.2), 0)),
    "position": (lambda m, x: (m.a(x)[2:6], 0), lambda m, x: (m.a(x)[3:7], 0)),
    "constant": (lambda m, x: (m.a(x) * torch.tensor(2.0), 0), lambda m, x: (m.a(x) * torch.tensor(3.0), 0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_steps_that_differ_in_numbers(name: str):
    one, other = map(captured, NUMBERS[name])
    assert not same_step(one, other)
    assert differ_in_numbers_only(one, other)


OTHERS: dict[str, tuple[Forward, Forward]] = {
    "operator": (lambda m, x: (m.a(x).sin(), 0), lambda m, x: (m.a(x).cos(), 0)),
    "shape": (lambda m, x: (m.a(x)[2:6], 0), lambda m, x: (m.a(x)[2:7], 0)),
    "dtype": (lambda m, x: (m.a(x) * torch.tensor([2.0]), 0), lambda m, x: (m.a(x) * torch.tensor([2]), 0)),
    "wiring": (lambda m, x: (m.a(x) - x, 0), lambda m, x: (x - m.a(x), 0)),
    "length": (lambda m, x: (m.a(x), 0), lambda m, x: (m.a(m.a(x)), 0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_steps(name: str):
    one, other = map(captured, OTHERS[name])
    assert not same_step(one, other)
    assert not differ_in_numbers_only(one, other)


def test_steps_on_tensors_of_another_layout_are_others():
    assert not differ_in_numbers_only(captured(scaled(2.0)), captured(scaled(2.0), transposed=True))
