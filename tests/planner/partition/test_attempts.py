"""How often a model is compiled, from what the predicted and the measured peaks were. Nothing is compiled."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.partition import CompiledPart, CompiledStep, compiled_step
from remat_planner.planner.partition.part import step_peak
from remat_planner.tracer.fusion import AtPeak

module = importlib.import_module("remat_planner.planner.partition.compile")


@pytest.fixture
def compiled_within(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CompiledStep]:
    """Compile a model of 20 bytes within 1020. The predicted peak is what the budget allows, and ``off`` by some bytes."""

    def run(off: list[int]) -> CompiledStep:
        class Backend:
            constant_bytes = 0
            fastest_peak_bytes = 2000

            def __init__(self, budget: object, *, earlier: object, less: int, always: bool, searches: dict[str, int]) -> None:
                assert searches.setdefault("", id(searches)) == id(searches)  # each attempt gets those of the ones before
                assert len(searches) == 1
                peak = 1000 - less
                self.parts = [
                    CompiledPart((0, 0), peak, 0, 3.0 - peak / 1000, 1.0, 2000, 1.0, (), AtPeak("mm", 900, 0, peak - 900))
                ]
                self.predicted_peak_bytes = step_peak(self.parts)

        predictions = iter(off)
        monkeypatch.setattr(module, "largest_difference", lambda *_: None)
        monkeypatch.setattr(module, "BudgetedBackend", Backend)
        monkeypatch.setattr(torch, "compile", lambda model, backend, dynamic: Compiled(backend.parts[0].peak_bytes))
        monkeypatch.setattr(module._Compilation, "_peak", lambda _, compiled: compiled.predicted + next(predictions))
        compiled = remat_planner.compile(nn.Linear(1, 1), (torch.ones(1, 3),), budget=1020)
        return compiled_step(compiled)

    return run


class Compiled(nn.Module):
    """What compiling makes of the model."""

    def __init__(self, predicted: int) -> None:
        super().__init__()
        self.predicted = predicted


def test_once_where_the_prediction_holds(compiled_within):
    step = compiled_within([-5])
    assert (step.attempts, step.predicted_peak_bytes, step.measured_peak_bytes) == (1, 1020, 1015)


def test_lowered_by_what_was_mispredicted(compiled_within):
    step = compiled_within([50, 60, 60])
    assert (step.attempts, step.predicted_peak_bytes, step.measured_peak_bytes) == (3, 960, 1020)


def test_raised_where_it_leaves_room(compiled_within):
    step = compiled_within([-100, -100])
    assert (step.attempts, step.predicted_peak_bytes, step.measured_peak_bytes) == (2, 1120, 1020)


def test_the_first_is_kept_where_the_raised_one_does_not_fit(compiled_within):
    step = compiled_within([-100, -50])
    assert (step.attempts, step.predicted_peak_bytes, step.measured_peak_bytes) == (2, 1020, 920)


def test_refused_after_four_attempts(compiled_within):
    with pytest.raises(remat_planner.InfeasibleBudgetError, match="compiled 4 times") as refused:
        compiled_within([10, 20, 30, 40])
    assert refused.value.minimum == 1030
    assert refused.value.bottleneck == "mm"
    assert "20 B are parameters, buffers and inputs; the rest, while mm is computed: 900 B" in str(refused.value)
