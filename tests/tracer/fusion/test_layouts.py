"""The layout of convolutions under inductor on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from remat_planner.tracer.fusion import as_called, runs_channels_last

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without it inductor keeps layouts")


def called(operator: torch._ops.OpOverload, *shapes: tuple[int, ...], more: tuple[object, ...] = ()) -> fx.Node:
    graph = fx.Graph()
    inputs = [graph.placeholder(f"primals_{k}") for k in range(len(shapes))]
    with FakeTensorMode():
        for node, shape in zip(inputs, shapes, strict=True):
            node.meta["val"] = torch.empty(shape)
        node = graph.call_function(operator, (*inputs, *more))
        node.meta["val"] = operator(*(given.meta["val"] for given in inputs), *more)
    return node


def convolution(*shapes: tuple[int, ...]) -> fx.Node:
    dimensions = len(shapes[0]) - 2
    ones, zeros = [1] * dimensions, [0] * dimensions
    return called(torch.ops.aten.convolution.default, *shapes, more=(ones, zeros, ones, False, zeros, 1))


def test_a_convolution_is_called_on_images_in_channels_last():
    call = as_called(convolution((2, 3, 8, 9), (4, 3, 1, 1), (4,)))
    image, weight, bias = (node.meta["val"] for node in call.all_input_nodes)
    assert image.stride() == (216, 1, 27, 3)
    assert weight.stride() == (3, 1, 3, 3)
    assert bias.stride() == (1,)
    assert call.meta["val"].is_contiguous(memory_format=torch.channels_last)


def test_the_call_keeps_its_settings():
    node = convolution((2, 3, 8, 9), (4, 3, 2, 2), (4,))
    call = as_called(node)
    assert call.target is node.target
    assert call.args[3:] == node.args[3:]


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_other_dimensions_keep_their_layout(dimensions: int):
    node = convolution((2, 3, *[8] * dimensions), (4, 3, *[2] * dimensions), (4,))
    assert not runs_channels_last(node)
    assert as_called(node) is node


def test_a_product_is_called_as_it_is():
    node = called(torch.ops.aten.mm.default, (2, 3), (3, 4))
    assert as_called(node) is node
