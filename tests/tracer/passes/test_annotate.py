"""Names, phases, origins and pins of the ops of a joint graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture, lower
from remat_planner.tracer.operators import register_operator, unregister_operator
from tests.tracer.cases import Written, linear, mean_square, noise
from tests.zoo import ZOO


def test_auxiliary_ops_are_forward_work_that_only_the_backward_needs():
    joint = capture(Written(lambda m, x: m.a(x).pow(3).mean(), a=linear()), (noise(),))
    graph = lower(joint).graph
    auxiliary = [op.kind for op in graph.ops if op.auxiliary]
    assert auxiliary == ["pow", "mul"]
    assert all(op.phase == "forward" for op in graph.ops if op.auxiliary)
    order = [op.name for op in graph.ops]
    assert order.index("loss") < order.index("backward/pow.0")


def test_routing_and_unknown_operators_are_pinned_with_a_reason():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        values, indices = m.a(x).topk(2)
        return mean_square(values) + indices.sum()

    graph = lower(capture(Written(forward, a=linear()), (noise(),))).graph
    assert "routing" in (graph.ops[graph.by_name["topk.0"]].pinned or "")


@pytest.mark.slow
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
def test_operators_that_choose_indices_are_pinned(choose: Callable[[torch.Tensor], torch.Tensor], name: str):
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        return mean_square(h) + (h * choose(h.detach()).float().sum()).mean() + torch.maximum(h, x).mean() + h.max()

    graph = lower(capture(Written(forward, a=linear()), (noise(),))).graph
    assert [op.name for op in graph.ops if op.pinned and "routing" in op.pinned] == [name]


def test_unknown_operators_that_do_not_repeat_are_pinned_until_they_are_declared_pure():
    @torch.library.custom_op("planner_test::sine", mutates_args=())
    def sine(x: torch.Tensor) -> torch.Tensor:
        return x.sin() + torch.rand_like(x) * 0

    sine.register_fake(torch.empty_like)
    sine.register_autograd(lambda _, gradient: gradient * 2, setup_context=lambda ctx, inputs, output: None)
    model = Written(lambda m, x: mean_square(torch.ops.planner_test.sine(m.a(x))), a=linear())
    graph = lower(capture(model, (noise(),))).graph
    assert "planner_test::sine" in (graph.ops[graph.by_name["sine.0"]].pinned or "")
    register_operator("planner_test::sine", pure=True)
    try:
        graph = lower(capture(model, (noise(),))).graph
        assert graph.ops[graph.by_name["sine.0"]].pinned is None
    finally:
        unregister_operator("planner_test::sine")


@pytest.mark.slow
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
    here = f"tests/tracer/passes/test_annotate.py:{line}"
    assert found["0/exp.0"] == ("0", here)
    assert found["0/backward/mul.0"] == ("0", here)
    assert found["0.inner.0/addmm.0"] == ("0.inner.0", here)
    assert found["0.inner.0/backward/mm.0"][0] == "0.inner.0"
    assert found["0.inner.1/backward/tanh_backward.0"][0] == "0.inner.1"
    assert found["1/addmm.0"][0] == "1"
    assert found["1/addmm.0"][1].startswith("torch/nn/modules/linear.py:")
    assert len(found) == len(graph.ops)


@pytest.mark.slow
def test_lines_of_library_models_are_named_relative_to_the_packages():
    case = ZOO["gpt2"]()
    graph = lower(capture(case.model, case.args, case.kwargs)).graph
    sources = {op.source.rpartition(":")[0] for op in graph.ops if op.module.startswith("transformer.h.0")}
    assert "transformers/models/gpt2/modeling_gpt2.py" in sources
    modules = {op.module for op in graph.ops if "/backward/" in op.name}
    assert "transformer.h.1.mlp.c_fc" in modules
