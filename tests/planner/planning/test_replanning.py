"""A model that is planned meets inputs of other sizes: a known schedule is kept where it is good enough."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.planning import solve_step
from remat_planner.planner.planning.replanning import ENOUGH_FOR_REPLAN, settings_for_replan
from remat_planner.planner.planning.schedule_cache import known_schedules, remember_schedule, schedules_of_other_sizes
from remat_planner.schedules import Schedule
from tests.planner.runtime.planned_net import equal, gradients


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x.square().mean()


def planned(budget: str, rows: int = 64) -> tuple[nn.Module, nn.Module, Schedule]:
    torch.manual_seed(0)
    net = Net()
    schedule = remat_planner.plan(net, (torch.randn(rows, 16),), budget=budget, time_limit=5, verify=False)
    assert isinstance(schedule, Schedule)
    return remat_planner.apply_schedule(net, schedule), copy.deepcopy(net), schedule


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """The solvers that run, and their seconds."""
    ran: list[tuple[str, float]] = []
    solve = solve_step.solve

    def noting(*args: Any, solver: str, time_limit: float, **options: Any) -> Any:
        ran.append((solver, time_limit))
        return solve(*args, solver=solver, time_limit=time_limit, **options)

    monkeypatch.setattr(solve_step, "solve", noting)
    return ran


@pytest.mark.slow
def test_structures_of_a_step_are_equal_for_all_sizes():
    _, _, schedule = planned("80%", 64)
    _, _, other = planned("100%", 48)
    assert schedule.graph.structure == other.graph.structure
    assert schedule.graph.fingerprint != other.graph.fingerprint
    assert schedule.steps in known_schedules(schedule.graph)
    assert schedule.steps not in known_schedules(other.graph)
    assert schedule.steps in schedules_of_other_sizes(other.graph)
    changed = remat_planner.plan(nn.Sequential(Net(), nn.Flatten(0)), (torch.randn(48, 16),), budget="100%", verify=False)
    assert changed.graph.structure != other.graph.structure


@pytest.mark.slow
def test_the_latest_schedules_of_other_sizes_are_kept():
    _, _, schedule = planned("100%", 40)
    _, _, other = planned("100%", 24)
    orders = [(*schedule.steps, k) for k in range(6)]  # an op at the end runs again
    for steps in orders:
        remember_schedule(schedule.graph, steps)
    assert schedules_of_other_sizes(other.graph) == tuple(orders[-4:])


@pytest.mark.slow
def test_shorter_inputs_that_fit_without_recomputation_are_not_searched_for(searches: list[tuple[str, float]]):
    ours, eager, schedule = planned("70%")
    ours._planned._sized = None  # as where a step cannot be captured with symbols for the sizes
    searches.clear()
    x = torch.randn(8, 16)
    ours(x).backward()
    assert [solver for solver, _ in searches] == ["none"]
    new = ours._planned.programs[0].schedule
    assert new.peak_bytes <= new.budget == schedule.budget
    assert new.graph.fingerprint != schedule.graph.fingerprint
    assert new.status == "optimal"
    eager(x).backward()
    assert equal(gradients(ours), gradients(eager))


@pytest.mark.slow(on_request=True)
def test_a_known_schedule_that_takes_too_long_leads_to_a_search_with_its_own_limit(searches: list[tuple[str, float]]):
    ours, eager, schedule = planned("60%")
    ours._planned._sized = None
    searches.clear()
    x = torch.randn(60, 16)  # nearly as many rows: the budget still asks for recomputation
    ours(x).backward()
    assert [solver for solver, _ in searches][:2] == ["none", "auto"]
    assert searches[1][1] <= settings_for_replan(schedule).time_limit == 2.0
    new = ours._planned.programs[0].schedule
    assert new.peak_bytes <= new.budget == schedule.budget
    assert new.seconds > (1 + ENOUGH_FOR_REPLAN) * new.graph.seconds
    eager(x).backward()
    assert equal(gradients(ours), gradients(eager))
