"""What the values of a joint graph are."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from remat_planner.tracer.fusion import values_of
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
    return values_of(graph, 1, (), lambda _: {})


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
