"""A new plan is run beside eager, on as much of the batch as eager has room for, and refused where it does not hold."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor

import remat_planner
from remat_planner import Verification, VerificationError
from remat_planner.planner import verified_plan


@pytest.fixture(autouse=True)
def _by_default(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(verified_plan, "BY_DEFAULT", True)
    caplog.set_level(logging.INFO, logger="remat_planner")


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def net(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(3))), torch.randn(64, 8)


class Calls:
    """Stands in the place of ``verify``: notes what it is called with, and answers."""

    def __init__(self, **found: Any) -> None:
        self.rows: list[int] = []
        self.found = found

    def __call__(self, model: nn.Module, schedule: Any, args: Any, kwargs: Any, *, loss: Any) -> Verification:
        self.rows.append(args[0].shape[0])
        fields = {"identical": True, "measured_peak_bytes": 100, "predicted_peak_bytes": 100, "budget_bytes": 100} | self.found
        return Verification(**fields)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    stand_in = Calls()
    monkeypatch.setattr(verified_plan, "verify", stand_in)
    return stand_in


def plan(model: nn.Module, x: torch.Tensor, **options: Any) -> Any:
    return remat_planner.plan(model, (x,), **({"budget": "100%", "loss": mean_square} | options))


@pytest.mark.slow
def test_the_step_is_run_for_real(caplog: pytest.LogCaptureFixture):
    model, x = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan(model, x, budget="90%")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not caplog.messages


@pytest.mark.slow
def test_every_form_is_verified_and_regions_are(calls: Calls):
    model, x = net()
    remat_planner.plan(model, shapes=[x, x[:48]], budget="100%", loss=mean_square)
    assert calls.rows == [64, 48]
    plan(model, x, regions="*")
    assert calls.rows == [64, 48, 64]


@pytest.mark.slow
def test_it_can_be_left_out(calls: Calls):
    plan(*net(), verify=False)
    assert calls.rows == []


@pytest.mark.slow
def test_another_step_than_eagers_is_refused(calls: Calls):
    calls.found = {"identical": False, "differences": tuple(f"step 1: output {k}" for k in range(6))}
    with pytest.raises(VerificationError, match=r"step 1: output 0, .* and 2 more.*verify=False") as caught:
        plan(*net())
    assert caught.value.differences == calls.found["differences"]
    assert isinstance(caught.value.schedule, remat_planner.Schedule)


@pytest.mark.slow
def test_a_peak_above_the_budget_is_refused_and_a_little_more_is_told(calls: Calls, caplog: pytest.LogCaptureFixture):
    calls.found = {"measured_peak_bytes": 1020, "budget_bytes": 1000}
    with pytest.raises(VerificationError, match=r"1.020 kB when it runs.*budget of 1.000 kB.*20 B lower") as caught:
        plan(*net())
    assert (caught.value.measured_peak_bytes, caught.value.budget_bytes) == (1020, 1000)
    calls.found["measured_peak_bytes"] = 1005
    plan(*net())
    assert any("5 B more than its budget" in message for message in caplog.messages)


@pytest.mark.slow
def test_a_part_of_the_batch_is_run_where_eager_has_no_room(
    calls: Calls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    model, x = net()
    whole = plan(model, x, verify=False)
    needed = whole.baseline_peak_bytes - whole.graph.constant_bytes
    monkeypatch.setattr(verified_plan, "available_on_host", lambda: needed // 2)
    assert plan(model, x).fingerprint == whole.fingerprint, "the plan is for the whole batch"
    assert calls.rows == [28]  # nine tenths of the half
    assert any("28 samples" in message for message in caplog.messages)
    monkeypatch.setattr(verified_plan, "available_on_host", lambda: needed // 100)
    plan(model, x)
    assert calls.rows == [28]
    assert any("no smaller batch" in message for message in caplog.messages)


@pytest.mark.slow
def test_less_and_less_is_run_until_eager_has_room(monkeypatch: pytest.MonkeyPatch):
    class NeedsRoom(nn.Module):
        rows = 0

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not isinstance(x, FakeTensor) and x.shape[0] > 20:
                raise torch.OutOfMemoryError
            return self.linear(x).square().mean()

    torch.manual_seed(0)
    run = verified_plan.verify
    found: list[tuple[int, bool]] = []

    def noted(model: nn.Module, schedule: Any, args: Any, kwargs: Any, *, loss: Any) -> Verification:
        verification = run(model, schedule, args, kwargs, loss=loss)
        found.append((args[0].shape[0], verification.identical))
        return verification

    monkeypatch.setattr(verified_plan, "verify", noted)
    remat_planner.plan(NeedsRoom(), (torch.randn(64, 8),), budget="100%")
    assert found == [(16, True)]


@pytest.mark.slow
def test_what_cannot_be_run_is_told(calls: Calls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    plan(*net(), costs="h100")
    plan(*net(), training=remat_planner.TrainingState(shard=2))
    monkeypatch.setattr(verified_plan, "in_process_group", lambda: True)
    plan(*net())
    assert calls.rows == []
    for message, why in zip(caplog.messages, ("h100 on paper", "shards", "call verify on every rank"), strict=True):
        assert "not verified" in message
        assert why in message
    with pytest.raises(VerificationError, match="cannot be verified here: it is planned for h100"):
        plan(*net(), costs="h100", verify=True)


def test_a_model_that_fails_by_itself_cannot_be_compared(caplog: pytest.LogCaptureFixture):
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not isinstance(x, FakeTensor):
                raise KeyError("not twice")
            return self.linear(x).square().mean()

    remat_planner.plan(Once(), (torch.randn(4, 8),), budget="100%")
    assert any("without a plan, raised KeyError in step 1" in message for message in caplog.messages)


@pytest.mark.slow(on_request=True)
def test_a_part_of_the_batch_that_shrinks_less_is_planned_with_its_least_budget(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    model, x = net()
    with pytest.raises(remat_planner.InfeasibleBudgetError) as caught:
        plan(model, x, budget=1, verify=False)
    whole = plan(model, x, budget=caught.value.minimum, verify=False)
    needed = whole.baseline_peak_bytes - whole.graph.constant_bytes
    monkeypatch.setattr(verified_plan, "available_on_host", lambda: needed // 8)
    assert plan(model, x, budget=caught.value.minimum).steps == whole.steps
    assert calls.rows == [7]
