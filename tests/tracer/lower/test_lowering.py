"""Filling costs into a lowered graph."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from remat_planner.schedules import simulate
from remat_planner.tracer import capture, lower
from tests.tracer.cases import linear, noise
from tests.zoo import ZOO


@dataclass(frozen=True)
class Cost:
    seconds: float = 0.0
    workspace: int = 0
    flops: int = 0
    allocates: tuple[int, ...] = ()


def test_each_op_gets_its_cost_and_the_loss_op_the_sum_of_its_nodes():
    joint = capture(linear(), (noise(),), loss=lambda output: output.exp().mean())
    lowering = lower(joint)
    costs = {node: Cost(seconds=2.0, workspace=100, flops=3) for node in lowering.node_of.values()}
    costs |= {node: Cost(seconds=1.0, workspace=1000, flops=1) for node in lowering.loss_nodes}
    graph = lowering.with_costs(costs)
    loss = graph.ops[graph.by_name["loss"]]
    assert (loss.seconds, loss.flops) == (len(lowering.loss_nodes), len(lowering.loss_nodes))
    assert loss.workspace >= 1000 + 4 * 64
    assert graph.seconds == 2.0 * len(lowering.node_of) + loss.seconds
    with pytest.raises(KeyError):
        lowering.with_costs({})


def test_a_loss_may_keep_more_bytes_than_one_number():
    # The kernel of mse_loss reduces a full tensor in its own place: the number that the caller holds keeps all of it.
    target = linear()(noise()).detach()
    lowering = lower(capture(linear(), (noise(),), loss=lambda output: nn.functional.mse_loss(output, target)))
    costs = dict.fromkeys((*lowering.node_of.values(), *lowering.loss_nodes), Cost())
    costs |= {node: Cost(allocates=(128,)) for node in lowering.loss_nodes if node.target is torch.ops.aten.mse_loss.default}
    graph = lowering.with_costs(costs)
    written = {
        graph.values[v].name: graph.storages[graph.values[v].storage].bytes for v in graph.ops[graph.by_name["loss"]].writes
    }
    assert (written["loss"], written["loss gradient"]) == (128, 4)


@pytest.mark.slow
def test_measured_bytes_replace_wrong_ones():
    case = ZOO["lstm"]()
    lowering = lower(capture(case.model, case.args))
    name = next(op.name for op in lowering.graph.ops if op.kind == "recurrent_layer_with_workspace")
    costs = {node: Cost() for node in lowering.node_of.values()}
    costs[lowering.node_of[name]] = Cost(allocates=(10, 20, 30, 40_000))
    graph = lowering.with_costs(costs)
    op = graph.by_name[name]
    assert [graph.storages[s].bytes for s in graph.allocated[op]] == [10, 20, 30, 40_000]
    assert simulate(graph, range(len(graph.ops))).peak_bytes > 40_000
