"""Operators that a function runs on fakes become a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from remat_planner.tracer.graph_trace import detached, is_recording, newest_node, nodes_after, recorded_graph, trace
from remat_planner.tracer.torch_private import TorchDispatchMode, new_fake_mode, to_fake
from remat_planner.tracer.torch_tracing import tracing_interrupted


def _fakes(*tensors: torch.Tensor) -> list[torch.Tensor]:
    mode = new_fake_mode()
    return [to_fake(mode, tensor) for tensor in tensors]


def _targets(graph: torch.fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def test_trace_records_the_operators_of_a_backward_too():
    def function(x: torch.Tensor) -> Any:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(x.tanh().sum(), x)

    graph = trace(function, *_fakes(torch.ones(2))).graph
    targets = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert "aten.tanh.default" in targets
    assert "aten.tanh_backward.default" in targets
    assert all("val" in node.meta for node in graph.nodes if node.op == "call_function")


def test_the_recorded_graph_is_open_to_dispatch_modes_and_can_be_left_out():
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before = recorded_graph()._root.prev
            result = func(*args, **(kwargs or {}))
            seen.append(before.next.name)
            return result

    def function(x: torch.Tensor) -> torch.Tensor:
        with Mode():
            y = x.tanh()
        with tracing_interrupted():
            y.sin()
        return y

    graph = trace(function, *_fakes(torch.ones(2))).graph
    assert seen == ["tanh"]
    assert [node.name for node in graph.nodes if node.op == "call_function"] == ["tanh"]
    with pytest.raises(RuntimeError, match="no trace"):
        recorded_graph()


def test_nodes_are_listed_from_the_newest_of_an_earlier_moment_on():
    graph = torch.fx.Graph()
    before_all = newest_node(graph)
    first = graph.placeholder("first")
    second = graph.call_function(torch.tanh, (first,))
    assert list(nodes_after(before_all)) == [first, second]
    assert list(nodes_after(first)) == [second]
    assert newest_node(graph) is second
    assert list(nodes_after(second)) == []


def test_a_trace_is_interrupted_where_nothing_is_recorded():
    seen = []

    def recorded(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(is_recording())
        with tracing_interrupted():
            seen.append(is_recording())
        return tensor.sin()

    trace(recorded, *_fakes(torch.ones(2)))
    assert seen == [True, False]
    assert not is_recording()


def test_results_are_in_eagers_order_and_keep_the_form_that_they_had():
    def function(tensors: list[torch.Tensor]) -> Any:
        x, y = tensors
        view = x.view(6)
        x.transpose_(0, 1)
        return [view + y.sum(), (x, None)], 3

    x, y = _fakes(torch.ones(2, 3), torch.ones(4))
    graph = trace(function, [x, y]).graph
    assert [node.op for node in graph.nodes if node.op != "call_function"] == ["placeholder", "placeholder", "output"]
    first, second = (node for node in graph.nodes if node.op == "placeholder")
    assert (first.meta["val"].shape, second.meta["val"].shape) == ((2, 3), (4,))
    added, moved, nothing, three = graph.output_node().args[0]
    assert (added.name, moved.name, nothing, three) == ("add", "transpose_", None, 3)
    assert moved.meta["val"].shape == (3, 2)
    assert _targets(graph) == ["aten.view.default", "aten.transpose_.default", "aten.sum.default", "aten.add.Tensor"]


def test_parts_of_a_result_are_nodes():
    graph = trace(lambda x: torch.max(x, dim=0)[1], *_fakes(torch.ones(2, 3))).graph
    whole, values, indices = (node for node in graph.nodes if node.op == "call_function")
    assert [tensor.dtype for tensor in whole.meta["val"]] == [torch.float32, torch.int64]
    assert (values.name, indices.name) == ("getitem", "getitem_1")
    assert graph.output_node().args[0] == [indices]


def test_other_tensors_are_constants():
    weight, other = torch.nn.Parameter(torch.ones(2)), torch.full((2,), 3.0)
    module = trace(lambda x: x * weight + other + other, *_fakes(torch.ones(2)))
    constants = [str(node.target) for node in module.graph.nodes if node.op == "get_attr"]
    assert constants == ["_param_constant0", "_tensor_constant0", "_tensor_constant0"]
    assert module._param_constant0 is weight
    assert module._tensor_constant0 is other
    assert torch.equal(module(torch.ones(2))[0], torch.full((2,), 7.0))


def test_values_of_other_tensors_are_known():
    three = torch.tensor(3.0)
    graph = trace(lambda x: x * three.item(), *_fakes(torch.ones(2))).graph
    assert [node.args[1] for node in graph.nodes if node.op == "call_function"] == [3.0]


def test_a_constant_of_the_code_is_copied_before_it_is_changed():
    module = trace(lambda x: x + torch.tensor(1.0).add_(1), *_fakes(torch.ones(2)))
    for _ in range(2):
        assert torch.equal(module(torch.ones(2))[0], torch.full((2,), 3.0))


def test_a_composite_operator_runs_as_its_parts_where_autograd_is_off():
    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.nn.functional.silu(x.reshape(4), inplace=False).square()

    assert "aten.square.default" not in _targets(trace(function, *_fakes(torch.ones(2, 2))).graph)


def test_a_trace_inside_of_another_one_is_apart():
    inner = []

    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        with tracing_interrupted():
            inner.append(trace(lambda z: z.exp(), y.detach()).graph)
        return y.cos()

    outer = trace(function, *_fakes(torch.ones(2))).graph
    assert _targets(inner[0]) == ["aten.exp.default"]
    assert _targets(outer) == ["aten.sin.default", "aten.cos.default"]


def test_a_function_that_raises_ends_its_trace():
    with pytest.raises(ZeroDivisionError):
        trace(lambda x: x / (1 // 0), *_fakes(torch.ones(2)))
    assert not is_recording()


def test_a_detached_tensor_is_the_same_node():
    def function(x: torch.Tensor) -> torch.Tensor:
        alone = detached(x)
        assert alone is not x
        assert not alone.requires_grad
        return alone.sin() + x

    fake = to_fake(new_fake_mode(), torch.ones(2))
    graph = trace(function, fake).graph
    placeholder, sine, total, _ = graph.nodes
    assert (sine.args, total.args) == ((placeholder,), (sine, placeholder))
