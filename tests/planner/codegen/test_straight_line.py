"""Schedules that cannot run, or would change bits, are refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from remat_planner.planner.apply import apply_schedule
from remat_planner.schedules import InvalidScheduleError, StaleScheduleError, simulate
from remat_planner.tracer import capture, lower
from tests.planner.codegen.zoo_steps import captured
from tests.planner.random_schedules import schedule_of


class _TwoDraws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.dropout(self.a(x), 0.5) * torch.nn.functional.dropout(x, 0.5)).sum()


def test_first_draws_out_of_order_are_refused():
    model, x = _TwoDraws(), torch.randn(4, 8)
    joint = capture(model, (x,))
    graph = lower(joint).graph
    names = {node.meta["name"]: node for node in joint.ops}
    first, second = (i for i, op in enumerate(graph.ops) if op.name in names and names[op.name].meta["random"])
    order = list(range(len(graph.ops)))
    # The second draw reads only the input: it may run before the first as far as the simulator is concerned.
    needed = [i for i in order[: second + 1] if i == second or set(graph.ops[i].writes) & set(graph.ops[second].reads)]
    moved = [*needed, *(i for i in order if i not in needed)]
    simulate(graph, moved)
    with pytest.raises(InvalidScheduleError, match="for the first time") as caught:
        apply_schedule(model, schedule_of(joint, tuple(moved), graph=graph))
    assert caught.value.op == graph.ops[first].name


def test_an_output_computed_after_the_loss_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.inner(x)
            return h.sum(), h + 1

    two = Two()
    joint = capture(two, (torch.randn(2, 4),), loss=lambda output: output[0])
    graph = lower(joint).graph
    late = next(i for i, op in enumerate(graph.ops) if op.kind == "add")
    order = [i for i in range(len(graph.ops)) if i != late]
    with pytest.raises(InvalidScheduleError, match="is not computed in time"):
        apply_schedule(two, schedule_of(joint, (*order, late), graph=graph))


def test_ops_that_the_capture_does_not_have_are_named():
    _, joint, graph = captured("plain_sequential")
    renamed = dataclasses.replace(graph, ops=(dataclasses.replace(graph.ops[0], name="layers.9/addmm.0"), *graph.ops[1:]))
    with pytest.raises(StaleScheduleError, match=r"layers\.9/addmm\.0") as caught:
        apply_schedule(captured("plain_sequential")[0].model, schedule_of(joint, graph=renamed))
    assert len(caught.value.differences) == 1
