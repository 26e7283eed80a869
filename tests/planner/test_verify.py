"""``verify`` tells a plan that holds from one that does not, and leaves the model as it was."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner import apply_schedule, verify
from remat_planner.planner.runtime.planned_call import PlannedCall
from remat_planner.schedules import Schedule, StaleScheduleError
from remat_planner.tracer import capture, lower
from tests.planner.random_schedules import random_steps, schedule_of
from tests.zoo import ZOO, Case


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def case_of(name: str) -> Case:
    torch.manual_seed(0)
    return ZOO[name]()


def state_of(model: nn.Module) -> dict[str, Any]:
    named = {name: t.clone() for name, t in model.state_dict().items()}
    named |= {f"gradient {name}": p.grad for name, p in model.named_parameters()}
    return named | {"training": model.training, "random": torch.get_rng_state()}


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    def same(name: str) -> bool:
        one, other = before[name], after[name]
        return one is other if name.startswith("gradient") else torch.equal(torch.as_tensor(one), torch.as_tensor(other))

    return before.keys() == after.keys() and all(map(same, before))


@pytest.mark.parametrize("name", ["plain_sequential", "batch_norm_and_counter", "in_place_and_views", "tied_and_shared"])
def test_a_plan_holds_when_run(name: str):
    case = case_of(name)
    for p in case.model.parameters():
        p.grad = torch.ones_like(p)
    schedule = remat_planner.plan(case.model, case.args, case.kwargs, budget="100%", loss=case.loss, time_limit=5)
    before = state_of(case.model)
    found = verify(case.model, schedule, case.args, case.kwargs)
    assert unchanged(before, state_of(case.model))
    assert found.identical, found.differences
    assert found.within_budget
    assert found.nondeterministic == ()
    assert found.predicted_peak_bytes == schedule.peak_bytes
    assert abs(found.measured_peak_bytes / found.predicted_peak_bytes - 1) < 0.02


def test_a_planned_model_can_be_verified_too():
    case = case_of("batch_norm_and_counter")
    joint = capture(case.model, case.args)
    graph = lower(joint).graph
    schedule = schedule_of(joint, random_steps(graph, 3), graph=graph)
    planned = apply_schedule(case.model, schedule)
    assert verify(planned, schedule, case.args).identical


@pytest.mark.parametrize("name", ["plain_sequential", "low_rank", "in_place_and_views", "channels_last"])
def test_a_schedule_from_a_file_finds_what_its_loss_reads(name: str, tmp_path: Any):
    case = case_of(name)
    remat_planner.plan(case.model, case.args, budget="100%", loss=case.loss, costs="h100", time_limit=5).save(
        tmp_path / "it.schedule.json"
    )
    loaded = Schedule.load(tmp_path / "it.schedule.json")
    assert verify(case.model, loaded, case.args, loss=case.loss).identical
    eager = copy.deepcopy(case.model)
    planned = apply_schedule(case.model, loaded)
    for module in (eager, planned):
        torch.manual_seed(5)
        case.loss(module(*case.args)).backward()
    for ours, theirs in zip(case.model.parameters(), eager.parameters(), strict=True):
        assert ours.grad is None if theirs.grad is None else torch.equal(ours.grad, theirs.grad)


def test_a_loss_that_cannot_be_found_has_to_be_given(tmp_path: Any):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 4), torch.randn(2, 4)

    def mixed(output: torch.Tensor) -> torch.Tensor:
        return output.t().contiguous().sum(0).pow(2).sum() + output.double().sum()  # a float64 loss of a float32 output

    remat_planner.plan(model, (x,), budget="100%", loss=lambda output: mixed(output)[None], costs="h100").save(
        tmp_path / "a.json"
    )
    loaded = Schedule.load(tmp_path / "a.json")
    with pytest.raises(StaleScheduleError, match="loss"):
        verify(model, loaded, (x,))
    assert verify(model, loaded, (x,), loss=lambda output: mixed(output)[None]).identical


@pytest.mark.parametrize("given", [False, True])
def test_the_loss_of_a_schedule_from_a_file_may_leave_its_result_in_a_large_buffer(given: bool, tmp_path: Any):
    def loss(output: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(output, torch.zeros(32, 32))

    torch.manual_seed(0)
    model, x = nn.Linear(32, 32), torch.randn(32, 32)
    schedule = remat_planner.plan(model, (x,), budget="100%", loss=loss)
    made = next(op for op in schedule.graph.ops if op.outside)
    scalar = next(value for value in map(schedule.graph.values.__getitem__, made.writes) if value.name == "loss")
    assert schedule.graph.storages[scalar.storage].bytes == x.nbytes, "as PyTorch does on the CPU"
    schedule.save(tmp_path / "a.json")
    eager = copy.deepcopy(model)
    planned = apply_schedule(model, Schedule.load(tmp_path / "a.json"), **({"loss": loss} if given else {}))
    for module in (eager, planned):
        loss(module(x)).backward()
    assert torch.equal(model.weight.grad, eager.weight.grad)


def test_more_bytes_than_the_budget_are_seen():
    case = case_of("plain_sequential")
    joint = capture(case.model, case.args, loss=case.loss)
    schedule = schedule_of(joint)
    tight = dataclasses.replace(schedule, budget=schedule.graph.constant_bytes + 1000)
    found = verify(case.model, tight, case.args, loss=case.loss)
    assert found.identical
    assert not found.within_budget
    assert found.measured_peak_bytes > found.budget_bytes == tight.budget


def test_other_bits_are_seen_and_named(monkeypatch: pytest.MonkeyPatch):
    case = case_of("plain_sequential")
    joint = capture(case.model, case.args, loss=case.loss)
    schedule = schedule_of(joint)
    run = PlannedCall.__call__

    def slightly_off(self: PlannedCall, args: Any, kwargs: Any) -> Any:
        return run(self, (args[0] * (1 + 2**-20), *args[1:]), kwargs)

    monkeypatch.setattr(PlannedCall, "__call__", slightly_off)
    found = verify(case.model, schedule, case.args, loss=case.loss)
    assert not found.identical
    assert "step 1: output 0" in found.differences
    assert "step 1: gradient of 0.weight" in found.differences
    assert not any("random state" in name for name in found.differences)


class _Unsteady(nn.Module):
    """Another result every time, by a counter that no state knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _Unsteady.calls += 1
        return self.a(x).sum() * _Unsteady.calls, self.b(x)

    calls = 0


def test_what_eager_does_not_repeat_is_told_apart():
    model, x = _Unsteady(), torch.randn(2, 4)
    joint = capture(model, (x,))
    found = verify(model, schedule_of(joint), (x,))
    assert "step 1: output 0" in found.nondeterministic
    assert "step 1: gradient of a.weight" in found.nondeterministic
    assert not any("gradient of b" in name for name in found.nondeterministic)
    assert found.identical


def test_what_eager_repeated_by_chance_is_told_apart():
    """In both runs before the planned one, which differs; then eager does too."""

    class Unsteady(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            Unsteady.calls += 1
            in_the_first_runs = Unsteady.calls in (2, 3, 4, 5)
            return self.a(x).sum() * Unsteady.calls, self.b(x) * (1 if in_the_first_runs else 2), self.c(x)

    model, x = Unsteady(), torch.randn(2, 4)
    found = verify(model, schedule_of(capture(model, (x,))), (x,))
    assert "step 1: output 1" in found.nondeterministic
    assert not any("gradient of c" in name for name in found.nondeterministic)
    assert found.identical
    assert found.largest_difference == 0.0


def test_inputs_that_the_forward_changes_are_put_back():
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.mul_(2)
            return self.a(x).sum()

    torch.manual_seed(0)
    model, x = Changing(), torch.randn(2, 4)
    before = x.clone()
    found = verify(model, schedule_of(capture(model, (x,))), (x,))
    assert found.identical, found.differences
    assert torch.equal(x, before)


def test_a_nan_is_the_same_nan():
    model, x = nn.Linear(4, 1), torch.full((2, 4), torch.nan)
    found = verify(model, schedule_of(capture(model, (x,), loss=torch.mean)), (x,), loss=torch.mean)
    assert found.identical
    assert found.nondeterministic == ()


def test_the_model_may_be_copied_afterwards():
    case = case_of("plain_sequential")
    schedule = schedule_of(capture(case.model, case.args, loss=case.loss))
    verify(case.model, schedule, case.args, loss=case.loss)
    assert type(copy.deepcopy(case.model)) is nn.Sequential
