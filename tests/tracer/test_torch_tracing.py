"""Each private name with which operators are traced, apart: the test that fails says what a release has moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from remat_planner.tracer import torch_private as private
from remat_planner.tracer import torch_tracing as tracing


def test_a_tracing_mode_has_the_place_of_make_fx():
    seen = []

    class Mode(tracing.TracingMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append((self, str(func)))
            return func(*args, **(kwargs or {}))

    x, outer, inner = torch.ones(2), Mode(), Mode()
    with outer:
        with torch.fx.experimental.proxy_tensor.maybe_enable_thunkify():
            pass
        with inner:
            x.tanh()
        assert tracing.tracing_mode() is outer
        with tracing.tracing_interrupted():
            assert tracing.tracing_mode() is None
            x.exp()
        torch.fx.experimental.proxy_tensor.make_fx(torch.cos)(x)
        x.sin()
    assert tracing.tracing_mode() is None
    assert seen == [(inner, "aten.tanh.default"), (outer, "aten.sin.default")]


def test_compiled_functions_can_be_refused():
    compiled = torch.compile(torch.tanh, backend="eager")
    with pytest.raises(RuntimeError, match=tracing.CALLS_COMPILED_CODE), tracing.compiled_functions_refused():
        compiled(torch.ones(2))


def test_a_snapshot_stays_as_the_tensor_was():
    fake = private.to_fake(private.new_fake_mode(), torch.ones(2, 3))
    kept, of_both = tracing.snapshot(fake), tracing.snapshot((fake, None))
    fake.transpose_(0, 1)
    assert (kept.shape, of_both[0].shape, fake.shape, of_both[1]) == ((2, 3), (2, 3), (3, 2), None)
    assert private.storage_key(kept) == private.storage_key(fake)


def test_the_code_of_a_graph_waits_for_its_first_call():
    graph = torch.fx.Graph()
    graph.output(graph.call_function(torch.tanh, (graph.placeholder("x"),)))
    module = tracing.graph_module(torch.nn.Module(), graph)
    module.recompile()
    assert "_code" not in vars(module)
    assert isinstance(module, torch.fx.GraphModule)
    assert torch.equal(module(torch.ones(2)), torch.ones(2).tanh())


def test_nodes_have_names_of_operators():
    assert [tracing.name_of_node(name) for name in ("_log_softmax", "addmm", "getItem")] == [
        "_log_softmax",
        "addmm",
        "get_item",
    ]


def test_a_functional_tensor_has_all_that_was_written_to_it():
    zeros, found = torch.zeros(2), []

    def function(x: torch.Tensor) -> torch.Tensor:
        inside = tracing.functional_tensor(zeros)
        found.append(tracing.functional_value(inside.clone()))
        inside.add_(x)
        found.append(tracing.functional_value(inside))
        return inside

    torch.func.functionalize(function)(torch.ones(2))
    assert [value.tolist() for value in found] == [[0.0, 0.0], [1.0, 1.0]]
    assert not any(torch._is_functional_tensor(value) for value in found)
    assert tracing.functional_value(found) is found
