"""The private names behind ``tracer.torch_inductor`` do what it says."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from remat_planner.tracer.torch_inductor import kind_of, operations, storage_key, weighs

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (aten.add.Tensor, "pointwise"),
        (aten.embedding.default, "pointwise"),
        (aten.sum.dim_IntList, "reduction"),
        (aten.var_mean.correction, "reduction"),
        (aten.view.default, "view"),
        (aten._unsafe_view.default, "view"),
        (aten.index_put.default, "loop"),
        (aten.mm.default, "kernel"),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, "kernel"),  # for which inductor has no code
        (len, "kernel"),
    ],
)
def test_kinds(target: object, kind: str):
    assert kind_of(target) == kind


def test_a_transcendental_weighs_more_than_an_addition():
    assert weighs(aten.tanh.default) > weighs(aten.div.Tensor) > weighs(aten.add.Tensor)


def test_views_share_a_storage():
    x = torch.ones(4)
    assert storage_key(x) == storage_key(x[1:]) != storage_key(x.clone())


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.slice_scatter.default, (0, 2, None, 2)),
        (aten.slice_scatter.default, (1, 0, 3)),
        (aten.slice_scatter.default, (0, 1, -1)),
        (aten.constant_pad_nd.default, ([1, 2, 0, 1],)),
        (aten.mul.Tensor, (2.0,)),
        (aten.neg.default, ()),
    ],
)
def test_operations_are_those_that_inductor_counts(target: torch._ops.OpOverload, arguments: tuple[object, ...]):
    graph = fx.Graph()
    x, part = graph.placeholder("x"), graph.placeholder("part")
    whole = torch.ones(8, 7)
    if target is aten.slice_scatter.default:
        source = torch.ops.aten.slice.Tensor(whole, *arguments).clone()
        node = graph.call_function(target, (x, part, *arguments))
        result = target(whole, source, *arguments)
    else:
        source = whole
        node = graph.call_function(target, (x, *arguments))
        result = target(whole, *arguments)
    node.meta["val"] = result
    graph.output((node,))
    counted, loads = _counted(fx.GraphModule({}, graph), whole, source)
    assert operations(node) == counted - loads


def _counted(module: fx.GraphModule, *inputs: torch.Tensor) -> tuple[int, int]:
    """Operations and loads of the loop that inductor makes of a graph with one operator, as it counts them itself."""
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    found = []

    class Counting(GraphLowering):
        def output(self, target, args, kwargs):
            count = args[0][0].data.data.data.inner_fn_opcount()
            found.append((count.num_ops, len(count.read_buffers)))
            return super().output(target, args, kwargs)

    lowering = Counting(module)
    with V.set_graph_handler(lowering):
        lowering.run(*inputs)
    return found[0]
