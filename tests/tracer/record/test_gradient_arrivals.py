"""A backward reaches a leaf by as many edges as it has uses, and leaves in a definite order."""

from __future__ import annotations

import torch

from remat_planner.tracer import capture
from remat_planner.tracer.record.gradient_arrivals import edges_into, noting_arrivals
from tests.autograd_functions import UsesFirst
from tests.tracer.cases import Written, linear, mean_square, noise


def test_edges_are_counted_and_the_order_is_the_backwards():
    first, second, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    hidden = first * 2
    output = (hidden * second + hidden * first).sum()
    leaves = [first, second, unused]
    assert edges_into(leaves, [output]) == (2, 1, 0)
    assert edges_into(leaves, [output, unused]) == (2, 1, 1)
    with noting_arrivals(leaves) as arrivals:
        output.backward()
    assert arrivals.order == [1, 0]
    output_again = (first * second).sum()
    output_again.backward()
    assert arrivals.order == [1, 0], "the hooks are removed"


def test_strides_are_those_of_the_gradient_as_it_arrives():
    leaf = torch.ones(2, 3, requires_grad=True)
    with noting_arrivals([leaf]) as arrivals:
        (leaf.t() * torch.arange(6.0).view(3, 2)).sum().backward()
    assert arrivals.strides == {0: (1, 2)}
    assert leaf.grad is not None
    assert leaf.grad.stride() == (3, 1), "autograd copies it into the layout of the leaf"


def test_a_leaf_that_gets_no_gradient_does_not_arrive():
    used, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with noting_arrivals([other, used]) as arrivals:
        UsesFirst.apply(used, other * 3).sum().backward()
    assert other.grad is None
    assert (arrivals.order, arrivals.strides) == ([1], {1: (1,)})


def test_a_parameter_without_a_gradient_is_captured():
    joint = capture(Written(lambda m, x: mean_square(UsesFirst.apply(m.a(x), m.b(x))), a=linear(), b=linear()), (noise(),))
    assert [gradient.node is not None for gradient in joint.gradients] == [True, True, False, False]
