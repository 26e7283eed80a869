"""Outputs whose tensors lie in objects that pytree does not open."""

from __future__ import annotations

import sys
from collections import deque

import pytest
import torch

from remat_planner.tracer import capture
from remat_planner.tracer.joint import flatten
from tests.zoo import ZOO


@pytest.mark.slow
def test_key_value_caches_in_the_output_are_filled_with_the_steps_tensors():
    torch.manual_seed(0)
    case = ZOO["gpt2"]()
    joint = capture(case.model, case.args, case.kwargs)
    leaves = [torch.full((1,), float(i)) for i in range(len(joint.outputs))]
    output = joint.output(leaves)
    held = [t for layer in output.past_key_values.layers for t in (layer.keys, layer.values)]
    assert len(held) == 4
    assert all(any(t is leaf for leaf in leaves) for t in held)
    assert output.loss is leaves[0]


class _Node:
    def __init__(self, *parts: object) -> None:
        self.parts = parts


@pytest.mark.timeout(20)
def test_what_is_reached_on_many_paths_is_looked_through_once():
    tensor, plain, shared = torch.zeros(2), _Node(sys), _Node()
    for _ in range(60):
        plain = _Node(plain, plain)
    shared.parts = (shared, tensor)
    leaves, tree = flatten(_Node(plain, shared, shared))
    assert [id(leaf) for leaf in leaves] == [id(tensor), id(tensor)]
    made = tree.unflatten([torch.ones(1), torch.ones(2)])
    assert made.parts[0] is plain
    assert [part.parts[1].numel() for part in made.parts[1:]] == [1, 2]


def test_what_a_forward_makes_anew_is_new_in_each_step():
    kept, made = [1], [2]
    output = (_Node(torch.zeros(2), kept, deque([made])), {3})
    leaves, tree = flatten(output, was_there=lambda thing: thing is kept)
    assert len(leaves) == 1
    one, two = tree.unflatten([torch.ones(1)]), tree.unflatten([torch.ones(1)])
    one[0].parts[2][0].append(4)
    one[1].add(5)
    assert (made, two[0].parts[2], two[1]) == ([2], deque([[2]]), {3})
    assert one[0].parts[1] is two[0].parts[1] is kept
    assert one[0].parts[0] is not output[0].parts[0]
