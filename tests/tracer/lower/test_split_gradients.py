"""The backward of a convolution in two parts: eager's bits, and the input of the convolution free before the second."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from remat_planner.schedules import simulate
from remat_planner.tracer import capture, lower
from remat_planner.tracer.costs import op_costs
from remat_planner.tracer.lower.split_gradients import (
    gradient_of_input,
    has_same_bits_in_parts,
    pairs,
    split_as,
    splittable,
    with_split_gradients,
)

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build has no mkldnn")


def _convolutions(**options: object) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1, **options), nn.SiLU(), nn.Conv2d(8, 8, 3)
    )
    return model, torch.randn(4, 3, 16, 16)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_parts_have_the_bits_of_the_whole(layout: torch.memory_format):
    convolution = ([2, 2], [1, 1], [1, 1], False, [0, 0], 2)
    source, weight = torch.randn(2, 4, 9, 9).to(memory_format=layout), torch.randn(8, 2, 3, 3).to(memory_format=layout)
    gradient = torch.randn(2, 8, 5, 5).to(memory_format=layout)
    whole = torch.ops.aten.convolution_backward(gradient, source, weight, [8], *convolution, [True, True, True])
    part, *others = gradient_of_input(gradient, source.shape, layout, weight, [8], *convolution)
    assert torch.equal(part, whole[0])
    assert part.stride() == whole[0].stride()
    assert others == [None, None]


def test_where_the_kernel_reads_the_input_it_gets_memory():
    convolution = ([1], [1], [1], False, [0], 1)
    source, weight, gradient = (torch.randn(*shape).double() for shape in ((2, 4, 9), (8, 4, 3), (2, 8, 9)))
    whole = torch.ops.aten.convolution_backward(gradient, source, weight, [8], *convolution, [True, True, False])
    assert torch.equal(
        gradient_of_input(gradient, source.shape, torch.contiguous_format, weight, [8], *convolution)[0], whole[0]
    )


def test_convolutions_that_need_both_gradients_are_split_but_no_depthwise_ones():
    model, x = _convolutions(groups=8)
    joint = capture(model, (x,), loss=lambda output: output.square().mean())
    assert [node.meta["name"] for node in splittable(joint)] == ["4/backward/convolution_backward.0"]  # the first needs one
    assert with_split_gradients(joint, []) is joint


def test_one_dimensional_convolutions_are_left_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.SiLU(), nn.Conv1d(8, 8, 3))
    assert splittable(capture(model, (torch.randn(2, 4, 16),), loss=lambda output: output.square().mean())) == ()


def test_a_step_in_parts_frees_the_input_first_and_says_how_much_longer_it_takes():
    model, x = _convolutions()
    joint = capture(model, (x,), loss=lambda output: output.square().mean())
    names = [node.meta["name"] for node in splittable(joint)]
    assert len(names) == 2
    assert all(has_same_bits_in_parts(node) for node in splittable(joint))
    whole, split = lower(joint), lower(with_split_gradients(joint, names))
    costs = op_costs([*whole.costed, *split.costed])
    before, graph = whole.with_costs(costs), split.with_costs(costs)
    assert list(pairs(graph)) == names
    for name, (first, second) in pairs(graph).items():
        assert not set(graph.ops[first].reads) <= set(graph.ops[second].reads)
        together = graph.ops[first].seconds + graph.ops[second].seconds
        assert together - graph.ops[second].extra_seconds == pytest.approx(costs[whole.node_of[name]].seconds)
    assert graph.seconds == pytest.approx(before.seconds)
    as_recorded = simulate(graph, range(len(graph.ops))).peak_bytes
    assert as_recorded < simulate(before, range(len(before.ops))).peak_bytes
    assert split_as(joint, before) is joint
    assert [node.meta["name"] for node in split_as(joint, graph).ops] == [node.meta["name"] for node in split.joint.ops]
