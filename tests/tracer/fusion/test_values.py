"""What the values of a joint graph are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from remat_planner.tracer.fusion import KernelCost, values_of
from remat_planner.tracer.fusion.values import Values


def convolved(weight: torch.Tensor, image: torch.Tensor) -> Values:
    graph = fx.Graph()
    inputs = [graph.placeholder(f"primals_{k}") for k in (1, 2)]
    for node, tensor in zip(inputs, (weight, image), strict=True):
        node.meta["val"] = tensor
    settings = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    result = graph.call_function(torch.ops.aten.convolution.default, (inputs[1], inputs[0], *settings))
    result.meta["val"] = torch.ops.aten.convolution.default(image, weight, *settings)
    graph.output((result,))
    return values_of(graph, 1, (), lambda nodes: dict.fromkeys(nodes, KernelCost(2.0, workspace=7)))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without it inductor keeps layouts")
def test_a_convolution_reads_copies_of_what_has_another_layout():
    values = convolved(torch.ones(4, 3, 2, 2), torch.ones(1, 3, 8, 8)).values
    assert [value.kind for value in values] == ["given", "given", "copy", "copy", "kernel"]
    assert values[4].reads == (2, 3)
    assert {values[v].reads: values[v].bytes for v in (2, 3)} == {(0,): 4 * 48, (1,): 4 * 192}


def test_one_that_has_the_layout_is_read_itself():
    wanted = {"memory_format": torch.channels_last}
    values = convolved(torch.ones(4, 3, 2, 2).contiguous(**wanted), torch.ones(1, 3, 8, 8).contiguous(**wanted)).values
    assert [value.kind for value in values] == ["given", "given", "kernel"]


def test_a_kernel_has_the_workspace_and_the_seconds_that_its_call_has():
    (kernel,) = (value for value in convolved(torch.ones(4, 3, 2, 2), torch.ones(1, 3, 8, 8)).values if value.kind == "kernel")
    assert (kernel.seconds, kernel.workspace) == (2.0, 7)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without it inductor keeps layouts")
def test_the_backward_of_a_convolution_copies_too_and_after_the_gradient_comes_in():
    graph = fx.Graph()
    names = ("tangents_1", "primals_1", "primals_2")
    gradient, image, weight = inputs = [graph.placeholder(name) for name in names]
    for node, shape in zip(inputs, ((1, 4, 7, 7), (1, 3, 8, 8), (4, 3, 2, 2)), strict=True):
        node.meta["val"] = torch.ones(shape)
    call = (gradient, image, weight, [0], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])
    result = graph.call_function(torch.ops.aten.convolution_backward.default, call)
    result.meta["val"] = result.target(*fx.node.map_arg(call, lambda node: node.meta["val"]))
    graph.output((None, result))
    values = values_of(graph, 1, (), lambda _: {})
    assert [value.kind for value in values.values] == ["given"] * 3 + ["copy"] * 3 + ["kernel"]
    assert values.forward == (False, True, True, False, True, True, False)


def test_elements_of_one_byte_are_narrow():
    graph = fx.Graph()
    given = graph.placeholder("primals_1")
    given.meta["val"] = torch.ones(5)
    mask = graph.call_function(torch.ops.aten.le.Scalar, (given, 0))
    mask.meta["val"] = torch.ones(5, dtype=torch.bool)
    graph.output((mask,))
    assert [value.narrow for value in values_of(graph, 1, (), lambda _: {}).values] == [0, 5]


def _graph_of(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Values:
    graph = make_fx(function)(*inputs).graph
    for k, node in enumerate(graph.find_nodes(op="placeholder")):
        node.target = f"primals_{k}"
    for node in graph.nodes:
        node.meta.setdefault("val", None)
    ((result,),) = (node.args for node in graph.find_nodes(op="output"))
    graph.output_node().args = ((result,),)
    return values_of(graph, 1, (), lambda nodes: dict.fromkeys(nodes, KernelCost(1.0)))


def test_a_product_of_matrices_with_vectors_is_a_loop_on_a_cpu():
    for shape, kind in (((2, 4, 1), "reduction"), ((2, 4, 3), "kernel")):
        *_, product = _graph_of(torch.bmm, torch.ones(2, 5, 4), torch.ones(shape)).values
        assert product.kind == kind
    product = _graph_of(torch.bmm, torch.ones(2, 5, 4), torch.ones(2, 4, 1)).values[-1]
    assert (product.elements, product.rows) == (40, 10)


def test_slices_are_parts_and_other_views_are_not():
    def sliced(x: torch.Tensor) -> torch.Tensor:
        first = x[:2]
        return first * x[2:] + x.view(2, 2, 2)[0] + first.t()

    values = _graph_of(sliced, torch.ones(4, 2)).values
    (a, b), (c,), (d,) = (next(p for p in v.parts if p != (0,)) for v in values if v.kind == "pointwise")
    assert len({0, a, b, c}) == 4
    assert d == a
    assert _graph_of(lambda x: x + x.t(), torch.ones(2, 2)).values[-1].parts == ((0,),)


def test_a_copy_in_another_layout_reorders():
    def contiguous(x: torch.Tensor) -> torch.Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    assert _graph_of(lambda x: contiguous(x.t()), torch.ones(4, 2)).values[-1].reorders
    assert not _graph_of(contiguous, torch.ones(4, 2)).values[-1].reorders
    assert not _graph_of(lambda x: x.t() + 1, torch.ones(4, 2)).values[-1].reorders


@pytest.mark.parametrize(
    ("shape", "dims", "down"),
    [
        ((4, 2), [0], True),
        ((4, 2), [1], False),
        ((4, 2), [-1], False),
        ((4, 2), [0, 1], False),
        ((4, 3, 2), [0, 1], True),
        ((4, 3, 2), [0, 2], True),
        ((4, 3, 2), [1, 2], False),
        ((4, 1), [0], False),  # nothing stays
        ((1, 4), [0], False),  # nothing is reduced
        ((1, 4, 2), [1], True),
    ],
)
def test_which_reductions_go_down(shape: tuple[int, ...], dims: list[int], down: bool):
    assert _graph_of(lambda x: x.sum(dims), torch.ones(shape)).values[-1].down == down
    assert not _graph_of(torch.sum, torch.ones(shape)).values[-1].down
