"""Outputs whose tensors lie in objects that pytree does not open."""

from __future__ import annotations

import sys

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
