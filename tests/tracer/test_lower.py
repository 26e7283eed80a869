"""The joint graph in the language of schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from remat_planner.schedules import simulate
from remat_planner.tracer import capture, lower
from tests.tracer.cases import Written, linear, mean_square, noise
from tests.zoo import ZOO


@dataclass(frozen=True)
class Cost:
    seconds: float = 0.0
    workspace: int = 0
    flops: int = 0
    allocates: tuple[int, ...] = ()


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


def test_outputs_without_a_gradient_from_the_loss_get_none():
    model = Written(lambda m, x: {"loss": mean_square(m.a(x)), "logits": m.a(x)}, a=linear())
    assert capture(model, (noise(),)).tangent_outputs == (0,)
    assert capture(model, (noise(),), loss=lambda output: output["logits"].sum()).tangent_outputs == (1,)
    without_loss = Written(lambda m, x: (m.a(x), m.a(x) * 2, x), a=linear())
    assert capture(without_loss, (noise(),)).tangent_outputs == (0, 1)


def test_auxiliary_ops_are_forward_work_that_only_the_backward_needs():
    joint = capture(Written(lambda m, x: m.a(x).pow(3).mean(), a=linear()), (noise(),))
    graph = lower(joint).graph
    auxiliary = [op.kind for op in graph.ops if op.auxiliary]
    assert auxiliary == ["pow", "mul"]
    assert all(op.phase == "forward" for op in graph.ops if op.auxiliary)
    order = [op.name for op in graph.ops]
    assert order.index("loss") < order.index("backward/pow.0")


def test_random_ops_hold_the_generators_state_when_repeated():
    case = ZOO["plain_sequential"]()
    graph = lower(capture(case.model, case.args, loss=case.loss)).graph
    (draw,) = [op for op in graph.ops if op.replay_bytes]
    assert (draw.replay_bytes, draw.kind, draw.module) == (torch.get_rng_state().numel(), "bernoulli_fill", "2")
    assert draw.pinned is None


def test_costs_are_put_in_and_the_losss_are_added_up():
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


def test_a_loss_that_lives_on_more_bytes_than_a_number():
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


def test_measured_bytes_take_the_place_of_wrong_ones():
    case = ZOO["lstm"]()
    lowering = lower(capture(case.model, case.args))
    name = next(op.name for op in lowering.graph.ops if op.kind == "recurrent_layer_with_workspace")
    costs = {node: Cost() for node in lowering.node_of.values()}
    costs[lowering.node_of[name]] = Cost(allocates=(10, 20, 30, 40_000))
    graph = lowering.with_costs(costs)
    op = graph.by_name[name]
    assert [graph.storages[s].bytes for s in graph.allocated[op]] == [10, 20, 30, 40_000]
    assert simulate(graph, range(len(graph.ops))).peak_bytes > 40_000


def test_routing_and_unknown_operators_are_pinned_with_a_reason():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        values, indices = m.a(x).topk(2)
        return mean_square(values) + indices.sum()

    graph = lower(capture(Written(forward, a=linear()), (noise(),))).graph
    assert "routing" in (graph.ops[graph.by_name["topk.0"]].pinned or "")


def test_unknown_operators_are_pinned_until_they_are_declared_pure():
    from remat_planner.tracer.joint import operators

    @torch.library.custom_op("planner_test::sine", mutates_args=())
    def sine(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    sine.register_fake(torch.empty_like)
    sine.register_autograd(lambda _, gradient: gradient * 2, setup_context=lambda ctx, inputs, output: None)
    model = Written(lambda m, x: mean_square(torch.ops.planner_test.sine(m.a(x))), a=linear())
    graph = lower(capture(model, (noise(),))).graph
    assert "planner_test::sine" in (graph.ops[graph.by_name["sine.0"]].pinned or "")
    operators.register_pure("planner_test::sine")
    try:
        graph = lower(capture(model, (noise(),))).graph
        assert graph.ops[graph.by_name["sine.0"]].pinned is None
    finally:
        operators._pure.discard("planner_test::sine")


def test_readers_of_what_the_forward_updates_are_pinned_by_its_name():
    case = ZOO["batch_norm_and_counter"]()
    joint = capture(case.model, case.args)
    graph = lower(joint).graph
    pinned = {op.name: op.pinned for op in graph.ops if op.pinned and not op.outside}
    assert pinned["add.0"] == "reads buffer steps, which the forward updates"
    assert pinned["copy_.0"] == "updates a tensor that outlives the step"
    norms = [node for node in joint.ops if "native_batch_norm.default" in str(node.target)]
    assert [node.meta["once"] for node in norms] == [(3, 4), (3, 4)]
    assert [node.meta["pinned"] for node in norms] == [None, None]


def test_ops_know_the_module_and_the_line_that_called_them_in_the_backward_too():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).exp()

    line = Block.forward.__code__.co_firstlineno + 1
    graph = lower(capture(nn.Sequential(Block(), nn.Linear(8, 1)), (noise(4, 8),), loss=torch.mean)).graph
    found = {op.name: (op.module, op.source) for op in graph.ops}
    here = f"tests/tracer/test_lower.py:{line}"
    assert found["0/exp.0"] == ("0", here)
    assert found["0/backward/mul.0"] == ("0", here)
    assert found["0.inner.0/addmm.0"] == ("0.inner.0", here)
    assert found["0.inner.0/backward/mm.0"][0] == "0.inner.0"
    assert found["0.inner.1/backward/tanh_backward.0"][0] == "0.inner.1"
    assert found["1/addmm.0"][0] == "1"
    assert found["1/addmm.0"][1].startswith("torch/nn/modules/linear.py:")
    assert len(found) == len(graph.ops)


def test_lines_of_library_models_are_named_relative_to_the_packages():
    case = ZOO["gpt2"]()
    graph = lower(capture(case.model, case.args, case.kwargs)).graph
    sources = {op.source.rpartition(":")[0] for op in graph.ops if op.module.startswith("transformer.h.0")}
    assert "transformers/models/gpt2/modeling_gpt2.py" in sources
    modules = {op.module for op in graph.ops if "/backward/" in op.name}
    assert "transformer.h.1.mlp.c_fc" in modules


def test_capturing_twice_gives_the_same_graph():
    torch.manual_seed(0)
    case = ZOO["bert"]()
    first, second = (lower(capture(case.model, case.args, case.kwargs)).graph for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.ops == second.ops


def test_key_value_caches_in_the_output_are_filled_with_the_steps_tensors():
    torch.manual_seed(0)
    case = ZOO["gpt2"]()
    joint = capture(case.model, case.args, case.kwargs)
    leaves = [torch.full((1,), float(i)) for i in range(len(joint.outputs))]
    output = joint.output_spec.unflatten(leaves)
    held = [t for layer in output.past_key_values.layers for t in (layer.keys, layer.values)]
    assert len(held) == 4
    assert all(any(t is leaf for leaf in leaves) for t in held)
    assert output.loss is leaves[0]


@pytest.mark.parametrize(
    ("choose", "name"),
    [
        (lambda h: h.topk(2)[1], "topk.0"),
        (lambda h: h.argmax(-1), "argmax.0"),
        (lambda h: h.argmin(-1), "argmin.0"),
        (lambda h: h.sort(-1)[1], "sort.0"),
        (lambda h: h.argsort(-1), "sort.0"),
        (lambda h: h.max(-1)[1], "max.0"),
        (lambda h: h.min(-1)[1], "min.0"),
        (lambda h: h.kthvalue(2)[1], "kthvalue.0"),
        (lambda h: h.median(-1)[1], "median.0"),
        (lambda h: torch.multinomial(h.softmax(-1), 1), "multinomial.0"),
    ],
)
def test_what_chooses_indices_is_pinned(choose: Callable[[torch.Tensor], torch.Tensor], name: str):
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        return mean_square(h) + (h * choose(h.detach()).float().sum()).mean() + torch.maximum(h, x).mean() + h.max()

    graph = lower(capture(Written(forward, a=linear()), (noise(),))).graph
    assert [op.name for op in graph.ops if op.pinned and "routing" in op.pinned] == [name]
