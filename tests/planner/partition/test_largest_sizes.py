"""A graph for sizes that may change: the largest of them, the graph at these, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import BackendCompilerFailed
from torch._functorch.compilers import nop
from torch._functorch.partitioners import default_partition
from torch.utils import _pytree as pytree

from remat_planner import ShapesError
from remat_planner.planner.partition.largest_sizes import LargestSizes, largest_sizes
from remat_planner.planner.torch_symbols import is_symbolic_number


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def sizes_of(
    function: Callable[..., torch.Tensor], *inputs: torch.Tensor, dynamic: bool = True, seen: dict[str, int] | None = None
) -> tuple[fx.Graph, LargestSizes]:
    """The joint graph of ``function`` as ``torch.compile`` captures it, and its largest sizes."""
    found: list[tuple[fx.Graph, LargestSizes]] = []

    def divide(joint: fx.GraphModule, inputs: Any, **settings: Any) -> Any:
        found.append((joint.graph, largest_sizes(joint.graph, {} if seen is None else seen)))
        return default_partition(joint, inputs, **settings)

    backend = aot_autograd(fw_compiler=nop, bw_compiler=nop, partition_fn=divide)
    torch.compile(function, backend=backend, dynamic=dynamic, fullgraph=True)(*inputs)
    return found[0]


def rows(count: int) -> torch.Tensor:
    return torch.ones(count, 5, requires_grad=True)


def test_a_graph_for_given_sizes_is_itself():
    graph, sizes = sizes_of(lambda x: x.tanh().sum(), rows(8), dynamic=False)
    assert not sizes.numbers
    assert sizes.graph(graph) is graph


def test_the_graph_has_the_largest_sizes_seen():
    def function(x: torch.Tensor) -> torch.Tensor:
        return (torch.cat([x, x]) * x.shape[0]).flatten().tanh().sum()

    seen = {"x.size()[0]": 12}
    graph, sizes = sizes_of(function, rows(8), seen=seen)
    assert seen == {"x.size()[0]": 12, "x.size()[1]": 5}
    largest = sizes.graph(graph)
    given, _ = sizes_of(function, rows(12), dynamic=False)
    values = {node.name: node.meta["val"] for node in largest.nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    shapes = [tuple(v.shape) for v in values.values()]
    assert all(type(n) is int for shape in shapes for n in shape)
    assert (120,) in shapes
    expected = [tuple(node.meta["val"].shape) for node in given.nodes if node.op == "call_function"]
    assert [tuple(node.meta["val"].shape) for node in largest.nodes if node.op == "call_function"] == expected
    assert values.keys() <= {node.name for node in graph.nodes}
    view = next(node for node in largest.nodes if node.target is torch.ops.aten.view.default)
    assert view.meta["val"].untyped_storage()._cdata == values[view.args[0].name].untyped_storage()._cdata
    assert not any(is_symbolic_number(n) for node in largest.nodes for n in pytree.tree_leaves(node.args))


def test_sizes_that_are_equal_are_remembered_by_each_name():
    """A later compilation may be for calls in which they are not."""
    x, y = rows(8), torch.ones(8, 5)
    for tensor in (x, y):
        torch._dynamo.mark_dynamic(tensor, 0)
    seen: dict[str, int] = {}
    sizes_of(lambda x, y: (x * y).sum(), x, y, dynamic=None, seen=seen)
    assert seen == {"x.size()[0]": 8, "y.size()[0]": 8}


def test_a_marked_range_is_planned_at_its_end():
    x = rows(8)
    torch._dynamo.mark_dynamic(x, 0, min=4, max=64)
    _, sizes = sizes_of(lambda x: x.tanh().sum(), x, dynamic=None)
    assert list(sizes.numbers.values()) == [64]


def test_a_number_that_no_size_depends_on_is_no_size():
    """A counter of steps: each value would be another compilation."""
    seen: dict[str, int] = {}
    _, sizes = sizes_of(lambda x, n: (x * n).sum(), rows(8), 7, seen=seen)
    assert set(seen) == {"x.size()[0]", "x.size()[1]"}
    assert sorted(sizes.numbers.values()) == [5, 7, 8]


def test_padding_to_a_multiple_is_no_larger_at_smaller_sizes():
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, -x.shape[0] % 8)).tanh().sum()

    graph, sizes = sizes_of(function, rows(13))
    assert (16, 5) in [
        tuple(n.meta["val"].shape) for n in sizes.graph(graph).nodes if isinstance(n.meta.get("val"), torch.Tensor)
    ]


def test_a_tensor_that_is_larger_at_smaller_sizes_is_refused():
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 20 - x.shape[0])).tanh().sum() + x.new_zeros(30 - x.shape[0]).sum()

    with pytest.raises(BackendCompilerFailed, match=r"may be larger where these are smaller.*30 - s.*dynamic=False") as refused:
        sizes_of(function, rows(13))
    assert isinstance(refused.value.inner_exception, ShapesError)


def test_a_size_that_depends_on_values_is_refused():
    with (
        torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True),
        pytest.raises(BackendCompilerFailed, match=r"depends on values of tensors.*torch\._check") as refused,
    ):
        sizes_of(lambda x: x[x > 0].tanh().sum(), rows(8))
    assert isinstance(refused.value.inner_exception, ShapesError)
