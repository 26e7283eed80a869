"""A backward reaches a leaf by as many edges as it has uses, and leaves in a definite order."""

from __future__ import annotations

import torch

from remat_planner.tracer.record.gradient_arrivals import arrival_order, edges_into


def test_edges_are_counted_and_the_order_is_the_backwards():
    first, second, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    hidden = first * 2
    output = (hidden * second + hidden * first).sum()
    leaves = [first, second, unused]
    assert edges_into(leaves, [output]) == (2, 1, 0)
    assert edges_into(leaves, [output, unused]) == (2, 1, 1)
    with arrival_order(leaves) as order:
        output.backward()
    assert order == [1, 0]
    output_again = (first * second).sum()
    output_again.backward()
    assert order == [1, 0], "the hooks are removed"
