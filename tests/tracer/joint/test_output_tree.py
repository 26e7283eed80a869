"""Outputs whose tensors lie in objects that pytree does not open."""

from __future__ import annotations

import pytest
import torch

from remat_planner.tracer import capture
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
