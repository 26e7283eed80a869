"""The arguments of ``plan``: a training state and a solver of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.planning.captures import settings_of
from remat_planner.solvers import Answer, Solver, Task


class KeepAll(Solver):
    """Recomputes nothing, and counts how often it is asked."""

    name = "keep-all"
    description = "recomputes nothing"

    def __init__(self) -> None:
        self.tasks = 0

    def solve(self, task: Task) -> Answer:
        """Every op once, in order."""
        self.tasks += 1
        return Answer(steps=range(len(task.graph.ops)))


def model_and_inputs() -> tuple[nn.Module, tuple[torch.Tensor]]:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), (torch.randn(32, 8),)


def loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


@pytest.mark.parametrize("costs", ["measure", "h100"])
def test_a_solver_of_ones_own_plans(costs: str) -> None:
    solver, (model, inputs) = KeepAll(), model_and_inputs()
    schedule = remat_planner.plan(model, inputs, budget="100%", loss=loss, solver=solver, costs=costs)
    assert isinstance(schedule, remat_planner.Schedule)
    assert solver.tasks >= 1
    assert schedule.solver == "keep-all"
    assert schedule.steps == tuple(range(len(schedule.graph.ops)))
    assert settings_of(schedule).solver is solver  # other inputs are planned by it too


@pytest.mark.slow
def test_a_solver_of_ones_own_fits_batches_and_survives_a_file(tmp_path: Any) -> None:
    solver, (model, inputs) = KeepAll(), model_and_inputs()
    result = remat_planner.fit(model, inputs, budget="40kB", loss=loss, solver=solver, costs="h100")
    assert solver.tasks >= len(result.tries)
    schedule = result.largest.schedule
    assert schedule is not None
    schedule.save(tmp_path / "s.json")
    assert remat_planner.Schedule.load(tmp_path / "s.json").solver == "keep-all"


@pytest.mark.slow
def test_anything_but_a_solver_is_refused() -> None:
    model, inputs = model_and_inputs()
    with pytest.raises(TypeError, match="subclass of Solver"):
        remat_planner.plan(model, inputs, budget="100%", loss=loss, solver=KeepAll)  # type: ignore[arg-type]
    with pytest.raises(remat_planner.UnknownSolverError, match="keep-all"):
        remat_planner.plan(model, inputs, budget="100%", loss=loss, solver="keep-all")


def test_options_of_the_training_state_are_its_fields_and_no_arguments_of_plan() -> None:
    model, inputs = model_and_inputs()
    training = remat_planner.TrainingState(shard=2, master_weights=True)
    schedule = remat_planner.plan(model, inputs, budget="100%", loss=loss, solver="none", training=training)
    assert schedule.origin.training == settings_of(schedule).training == training
    for function in (remat_planner.plan, remat_planner.fit):
        with pytest.raises(TypeError, match="unexpected keyword argument 'shard'"):
            function(model, inputs, budget="40kB", loss=loss, shard=2)  # type: ignore[call-arg]


def test_a_dict_is_not_a_training_state() -> None:
    model, inputs = model_and_inputs()
    with pytest.raises(remat_planner.TrainingStateError, match=r"dict: give .*TrainingState\(shard=8\)"):
        remat_planner.plan(model, inputs, budget="100%", loss=loss, training={"shard": 2})  # type: ignore[arg-type]
