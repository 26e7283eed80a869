"""A model far larger than this machine is captured and lowered on fake tensors alone."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from remat_planner.schedules import simulate
from remat_planner.tracer import capture, lower


@pytest.mark.slow
def test_layers_of_a_7b_model_are_captured_without_their_memory():
    transformers = pytest.importorskip("transformers")
    resource = pytest.importorskip("resource")
    layers, width, tokens = 2, 4096, 8192
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=32,
        vocab_size=32000,
        max_position_embeddings=tokens,
        use_cache=False,
        dtype=torch.bfloat16,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mode = FakeTensorMode()
    with mode:
        model = transformers.LlamaForCausalLM(config).train()
        ids = torch.randint(0, 32000, (1, tokens))
    joint = capture(model, (), {"input_ids": ids, "labels": ids})
    graph = lower(joint).graph

    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    assert graph.constants["parameters"] == parameters > 10**9
    assert simulate(graph, range(len(graph.ops))).peak_bytes > 5 * 10**9
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 10**9
    attention = [node for node in joint.ops if "scaled_dot_product" in str(node.target) and not node.meta["in_backward"]]
    assert [(node.args[4], "attn_mask" in node.kwargs) for node in attention] == [(True, False)] * layers
    assert mode.allow_non_fake_inputs is False
