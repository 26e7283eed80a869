"""The joint graph in the language of schedules."""

from __future__ import annotations

import functools

import pytest
import torch

from remat_planner.tracer import capture, lower
from tests.tracer.cases import Written, linear, mean_square, noise
from tests.zoo import ZOO


@pytest.mark.slow
def test_constants_are_counted_once_per_storage():
    model = ZOO["tied_and_shared"]()
    graph = lower(capture(model.model, model.args)).graph
    assert graph.constants == {"parameters": 4 * (100 * 32 + 32 * 32 + 32), "buffers": 0, "inputs": 8 * 32}
    half = noise(8, 16)
    graph = lower(capture(Written(lambda m, a, b: mean_square(m.a(a) + b), a=linear()), (half[:4], half[4:]))).graph
    assert graph.constants["inputs"] == 4 * 8 * 16
    assert all(storage.bytes == 0 for storage in graph.storages if storage.constant)


def test_views_of_inputs_cost_nothing():
    joint = capture(Written(lambda m, x: mean_square(m.a(x[:, 16:])), a=linear()), (noise(4, 32),))
    graph = lower(joint).graph
    op = graph.ops[graph.by_name["slice.0"]]
    assert graph.storages[graph.values[op.writes[0]].storage].constant


def test_views_of_constants_cost_nothing_however_many_there_are():
    @functools.lru_cache
    def table() -> torch.Tensor:
        return torch.linspace(0.0, 1.0, 64 * 16).view(64, 16)

    table()
    model = Written(lambda m, x: mean_square(m.a(x) * table()[:4] + table()[:1]), a=linear())
    graph = lower(capture(model, (noise(4, 16),))).graph
    slices = [op for op in graph.ops if op.name.startswith("slice.")]
    assert len(slices) == 2
    assert all(graph.storages[graph.values[op.writes[0]].storage].constant for op in slices)


@pytest.mark.parametrize("in_place", ["nothing", "an activation", "the copy"])
def test_a_copy_of_a_constant_has_memory_of_its_own(in_place: str):
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        m.table = torch.tensor([1.0] * 16)
        if in_place == "the copy":
            m.table.mul_(2.0)
        y = m.a(x)
        return mean_square((y.add_(1.0) if in_place == "an activation" else y) * m.table)

    graph = lower(capture(Written(forward, a=linear(), table=None), (noise(4, 16),))).graph
    (copy,) = (op for op in graph.ops if op.kind == "lift_fresh_copy")
    storage = graph.storages[graph.values[copy.writes[0]].storage]
    assert (storage.bytes, storage.constant) == (64, False)


def test_the_loss_stands_between_forward_and_backward_and_hands_its_gradients_over():
    target = torch.ones(4, 16)
    joint = capture(linear(), (noise(),), loss=lambda output: ((output - target) ** 2).mean())
    graph = lower(joint).graph
    place = graph.by_name["loss"]
    op = graph.ops[place]
    assert op.outside
    assert op.pinned == "the caller's loss"
    assert [graph.values[v].shape for v in op.writes] == [(4, 16), (), ()]
    assert [graph.values[v].name for v in op.writes[1:]] == ["loss", "loss gradient"]
    assert set(op.writes[1:]) <= set(graph.results)
    assert op.writes[0] not in graph.results
    assert all(op.phase == "forward" for op in graph.ops[:place])
    # pow, its derivative's two factors and the gradients between them: more than one tensor, less than the whole loss kept.
    assert 4 * 64 <= op.workspace <= 4 * 4 * 64
    assert lower(joint).loss_nodes == tuple(n for n in joint.loss.graph.graph.nodes if n.op == "call_function")


def test_a_models_own_loss_starts_the_backward_with_one_number():
    joint = capture(Written(lambda m, x: mean_square(m.a(x)), a=linear()), (noise(),))
    graph = lower(joint).graph
    op = graph.ops[graph.by_name["loss"]]
    assert [(graph.values[v].shape, graph.storages[graph.values[v].storage].bytes) for v in op.writes] == [((), 4)]
    assert (op.workspace, joint.loss) == (0, None)


@pytest.mark.slow
def test_outputs_without_a_gradient_from_the_loss_get_none():
    model = Written(lambda m, x: {"loss": mean_square(m.a(x)), "logits": m.a(x)}, a=linear())
    assert capture(model, (noise(),)).tangent_outputs == (0,)
    assert capture(model, (noise(),), loss=lambda output: output["logits"].sum()).tangent_outputs == (1,)
    without_loss = Written(lambda m, x: (m.a(x), m.a(x) * 2, x), a=linear())
    assert capture(without_loss, (noise(),)).tangent_outputs == (0, 1)


@pytest.mark.slow
def test_random_ops_hold_the_generators_state_when_repeated():
    case = ZOO["plain_sequential"]()
    graph = lower(capture(case.model, case.args, loss=case.loss)).graph
    (draw,) = [op for op in graph.ops if op.replay_bytes]
    assert (draw.replay_bytes, draw.kind, draw.module) == (torch.get_rng_state().numel(), "bernoulli_fill", "2")
    assert draw.pinned is None


@pytest.mark.slow(on_request=True)
def test_capturing_twice_gives_the_same_graph():
    torch.manual_seed(0)
    case = ZOO["bert"]()
    first, second = (lower(capture(case.model, case.args, case.kwargs)).graph for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.ops == second.ops
