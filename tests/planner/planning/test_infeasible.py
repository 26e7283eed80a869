"""What is said where no schedule fits, and the least budget that does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.errors import BudgetError, InfeasibleBudgetError


def _blocks() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(2)))


def _refusal(model: nn.Module, x: torch.Tensor, budget: int | str, **options: object) -> InfeasibleBudgetError:
    with pytest.raises(InfeasibleBudgetError) as caught:
        remat_planner.plan(model, (x,), budget=budget, time_limit=2, verify=False, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.slow
def test_the_floor_in_percent_and_what_it_consists_of():
    error = _refusal(_blocks(), torch.randn(256, 16), "40%")
    message = str(error)
    assert "% of the peak without recomputation): parameters " in message
    assert f"for {error.bottleneck} (what it reads and computes" in message
    consists = message.partition("recomputation): ")[2].partition(" (what")[0].split(" for ")[0]
    parts = [int(word.replace(",", "")) for word in consists.replace(", ", " ").split() if word[0].isdigit()]
    assert sum(parts) == error.minimum
    assert "make the batch smaller" in message


@pytest.mark.slow
def test_a_smaller_batch_is_named_only_where_it_helps():
    message = str(_refusal(_blocks(), torch.randn(4, 16), 10_000, optimizer="sgd:momentum=0.9"))
    assert "make the batch smaller" not in message
    model = _blocks()
    least = remat_planner.plan(model, (torch.randn(256, 16),), budget="min", time_limit=2, verify=False).budget
    assert "make the batch smaller" in str(_refusal(model, torch.randn(256, 16), least * 3 // 4))
    message = str(_refusal(model, torch.randn(256, 16), 8_000))
    assert "A smaller batch does not help" in message
    assert "TrainingState(shard=N)" in message


def test_a_loss_that_sets_the_floor_can_be_computed_in_chunks():
    model, x = nn.Linear(8, 2000), torch.randn(64, 8)
    labels = torch.randint(2000, (64,))
    message = str(_refusal(model, x, "50%", loss=lambda output: F.cross_entropy(output, labels)))
    assert "compute the loss in chunks" in message


def test_what_cannot_be_left_out_is_named_with_its_module_and_line():
    error = _refusal(nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8)), torch.randn(64, 8), 30_000)
    assert error.proven
    assert {(value.bytes, value.role) for value in error.values} == {(64 * 64 * 4, "read"), (64 * 64 * 4, "computed")}
    assert {value.module for value in error.values} <= {"0", "1", "2"}
    assert all(".py:" in value.source and str(value) in str(error) for value in error.values)
    assert "Without any one of them the rest would fit" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("regions", [None, "*"])
def test_the_least_budget_holds_and_one_byte_less_does_not(regions: str | None):
    model, x = _blocks(), torch.randn(256, 16)
    schedule = remat_planner.plan(model, (x,), budget="min", time_limit=2, regions=regions)
    assert schedule.peak_bytes == schedule.budget < schedule.baseline_peak_bytes
    _refusal(model, x, schedule.budget - 1, regions=regions)


@pytest.mark.slow(on_request=True)
def test_the_least_budget_of_several_forms_is_that_of_the_largest():
    model, x = _blocks(), torch.randn(256, 16)
    schedule = remat_planner.plan(model, (x,), shapes=[x[:64]], budget="min", time_limit=2, verify=False)
    alone = remat_planner.plan(model, (x,), budget="min", time_limit=2, verify=False)
    assert schedule.budget == alone.budget


def test_fit_needs_bytes():
    with pytest.raises(BudgetError, match="give bytes"):
        remat_planner.fit(_blocks(), (torch.randn(8, 16),), budget="min")
