"""A sample of the standing sweep (``python -m benchmarks.sweep``), and what its parts say of faults."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from benchmarks.sweep.__main__ import FAULTS, collected, sweep, table
from benchmarks.sweep.beside_eager import Outcome, check
from benchmarks.sweep.cases import Built, Case, NotTrainableError
from benchmarks.sweep.workers import run_each
from remat_planner.planner.measurement import measure_peak


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(x).tanh().sin().sum()}


def _small() -> Built:
    torch.manual_seed(0)
    return Built(_Small(), (torch.randn(3, 4),))


CASE = Case("programs", "small", _small)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "size"), [("op_db", 9), ("module_db", 5), ("programs", 9)])
def test_a_sample_is_right_or_refused_by_name(part: str, size: int):
    if part != "programs":
        pytest.importorskip("expecttest", reason="PyTorch's own samples import expecttest, which is not installed")
    cases = collected([part], 2, "", size, seed=2)
    found = sweep(cases, limit=60)
    assert [(case.name, outcome) for case, outcome in found if outcome.verdict in FAULTS] == []
    assert sum(outcome.verdict == "right" for _, outcome in found) > size // 3
    assert table(found)


@pytest.mark.slow
def test_a_right_case_is_right():
    assert check(CASE) == Outcome("right")


def test_other_bits_are_seen(monkeypatch: pytest.MonkeyPatch):
    apply = remat_planner.apply_schedule

    def applied(model: nn.Module, *args: Any) -> nn.Module:
        planned = apply(model, *args)
        model.layer.bias.register_hook(lambda gradient: gradient.mul(1 + 1e-6))  # type: ignore[union-attr]
        return planned

    monkeypatch.setattr(remat_planner, "apply_schedule", applied)
    outcome = check(CASE)
    assert outcome.verdict == "wrong"
    assert "step 1: gradient of layer.bias: bits differ" in outcome.detail


def test_a_peak_over_the_budget_is_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.sweep.beside_eager.measure_peak", lambda step: measure_peak(step) + 64)
    assert check(CASE).verdict == "over budget"


@pytest.mark.slow
def test_errors_are_ours_or_foreign(monkeypatch: pytest.MonkeyPatch):
    def fail(error: Exception, *_args: Any, **_kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(remat_planner, "apply_schedule", partial(fail, remat_planner.BudgetError("12 bytes are too few")))
    assert check(CASE) == Outcome("refused", "100%: BudgetError: 12 bytes are too few", "BudgetError: bytes are too few")
    monkeypatch.setattr(remat_planner, "apply_schedule", partial(fail, KeyError("slice_scatter")))
    assert check(CASE).verdict == "foreign error"


def test_what_eager_does_not_train_is_left_out():
    def none() -> Built:
        raise NotTrainableError("there are fewer samples")

    assert check(replace(CASE, build=none)) == Outcome("not trained by eager", "there are fewer samples")


def _task(name: str) -> str:
    if name == "ends":
        os._exit(3)
    if name == "hangs":
        time.sleep(60)
    return name.upper()


@pytest.mark.slow
def test_a_task_that_hangs_or_ends_its_process_is_told_and_the_others_go_on():
    results = dict(run_each(lambda name: (_task(name),), ["a", "ends", "b", "hangs", "c"], limit=2.0))
    assert results == {0: ("A",), 1: "the process ended with exit code 3", 2: ("B",), 3: "took more than 2 s", 4: ("C",)}
