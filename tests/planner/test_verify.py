"""``verify`` tells a correct plan from a wrong one, and leaves the model as it was."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner import apply_schedule, verify
from remat_planner.planner.regions import planned_regions
from remat_planner.planner.runtime.planned_call import PlannedCall
from remat_planner.schedules import Schedule, StaleScheduleError
from remat_planner.tracer import capture, lower
from tests.planner.random_schedules import random_steps, schedule_of
from tests.planner.verified import (
    _one_thread,  # noqa: F401
    state_of,
    unchanged,
)
from tests.zoo import ZOO, Case


def case_of(name: str) -> Case:
    torch.manual_seed(0)
    return ZOO[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_sequential", "batch_norm_and_counter", "in_place_and_views", "tied_and_shared"])
def test_a_plan_holds_when_run(name: str):
    case = case_of(name)
    for p in case.model.parameters():
        p.grad = torch.ones_like(p)
    schedule = remat_planner.plan(case.model, case.args, case.kwargs, budget="100%", loss=case.loss, time_limit=5)
    before = state_of(case.model)
    verification = verify(case.model, schedule, case.args, case.kwargs)
    assert unchanged(before, state_of(case.model))
    assert verification.identical, verification.differences
    assert verification.within_budget
    assert verification.nondeterministic == ()
    assert verification.predicted_peak_bytes == schedule.peak_bytes
    assert abs(verification.measured_peak_bytes / verification.predicted_peak_bytes - 1) < 0.02


@pytest.mark.slow
def test_a_planned_model_can_be_verified_too():
    case = case_of("batch_norm_and_counter")
    joint = capture(case.model, case.args)
    graph = lower(joint).graph
    schedule = schedule_of(joint, random_steps(graph, 3), graph=graph)
    planned = apply_schedule(case.model, schedule)
    assert verify(planned, schedule, case.args).identical


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_peak_over_the_budget_is_reported():
    case = case_of("plain_sequential")
    joint = capture(case.model, case.args, loss=case.loss)
    schedule = schedule_of(joint)
    tight = dataclasses.replace(schedule, budget=schedule.graph.constant_bytes + 1000)
    verification = verify(case.model, tight, case.args, loss=case.loss)
    assert verification.identical
    assert not verification.within_budget
    assert verification.measured_peak_bytes > verification.budget_bytes == tight.budget


@pytest.mark.slow
def test_differing_tensors_are_named(monkeypatch: pytest.MonkeyPatch):
    case = case_of("plain_sequential")
    joint = capture(case.model, case.args, loss=case.loss)
    schedule = schedule_of(joint)
    run = PlannedCall.__call__

    def slightly_off(self: PlannedCall, args: Any, kwargs: Any) -> Any:
        return run(self, (args[0] * (1 + 2**-20), *args[1:]), kwargs)

    monkeypatch.setattr(PlannedCall, "__call__", slightly_off)
    verification = verify(case.model, schedule, case.args, loss=case.loss)
    assert not verification.identical
    assert "step 1: output 0" in verification.differences
    assert "step 1: gradient of 0.weight" in verification.differences
    assert not any("random state" in name for name in verification.differences)


_calls = itertools.count(1)  # no state that could be put back


_calls_alike = range(0)


@torch.library.custom_op("tests_verify::unsteady", mutates_args=())
def unsteady(x: torch.Tensor, always: bool) -> torch.Tensor:
    """Another result in each call, but for those of ``_calls_alike`` where not ``always``."""
    call = next(_calls)
    return x * (1 if call in _calls_alike and not always else call)


unsteady.register_fake(lambda x, always: torch.empty_like(x))


unsteady.register_autograd(
    lambda ctx, gradient: (unsteady(gradient, ctx.always), None),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "always", inputs[1]),
)


class Unsteady(nn.Module):
    """One head runs a kernel that never repeats itself, another one a kernel that does so for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return unsteady(self.a(x), True), unsteady(self.b(x), False), self.c(x)


@pytest.mark.slow
def test_tensors_that_eager_does_not_repeat_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model, x = Unsteady(), torch.randn(2, 4)
    schedule = schedule_of(capture(model, (x,)))
    for alike in (0, 2 * (4 + 4 + 3)):  # the calls in two runs of eager, which repeats the second head in those
        start = next(_calls) + 1
        monkeypatch.setattr(f"{__name__}._calls_alike", range(start, start + alike))
        verification = verify(model, schedule, (x,))
        for head in "ab":
            assert f"step 1: gradient of {head}.weight" in verification.nondeterministic
        assert {"step 1: output 0", "step 1: output 1"} <= set(verification.nondeterministic)
        assert not any("gradient of c" in name or "parameter" in name for name in verification.nondeterministic)
        assert verification.identical, verification.differences
        assert verification.largest_difference == 0.0


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
    verification = verify(model, schedule_of(capture(model, (x,))), (x,))
    assert verification.identical, verification.differences
    assert torch.equal(x, before)


def test_a_nan_is_the_same_nan():
    model, x = nn.Linear(4, 1), torch.full((2, 4), torch.nan)
    verification = verify(model, schedule_of(capture(model, (x,), loss=torch.mean)), (x,), loss=torch.mean)
    assert verification.identical
    assert verification.nondeterministic == ()


@pytest.mark.slow
def test_the_model_may_be_copied_afterwards():
    case = case_of("plain_sequential")
    schedule = schedule_of(capture(case.model, case.args, loss=case.loss))
    verify(case.model, schedule, case.args, loss=case.loss)
    assert type(copy.deepcopy(case.model)) is nn.Sequential


@pytest.mark.slow
def test_planned_regions_are_on_the_model_again_afterwards():
    torch.manual_seed(0)
    model, x = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))), torch.randn(4, 8)
    schedule = remat_planner.plan(model, (x,), budget="100%", loss=torch.sum, regions="[0-1]", costs="measure")
    verify(model, schedule, (x,), loss=torch.sum)
    assert planned_regions(model) == {}
    apply_schedule(model, schedule)
    forwards = planned_regions(model)
    assert list(forwards) == ["0", "1"]
    assert verify(model, schedule, (x,), loss=torch.sum).identical
    assert planned_regions(model) == forwards
    with pytest.raises(StaleScheduleError, match=r"planned for \[0\].*this call is \[0\].*\[1\]"):
        verify(model, schedule, (x, x), loss=torch.sum)
    assert planned_regions(model) == forwards


class TwoMoments(nn.Module):
    """One operator with two results: what eager computes without the gradient of one of them is not known to a plan."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        return torch.var_mean(x, -1)


@pytest.mark.parametrize("regions", [None, "layers.*"])
def test_a_backward_that_the_plan_refuses_by_name_is_left_out(regions: str | None):
    model, x = TwoMoments(), torch.randn(64, 8)
    schedule = remat_planner.plan(model, (x,), budget="100%", regions=regions)
    found = verify(model, schedule, (x,))
    assert found.identical
    assert not found.nondeterministic
