"""Llama with grouped-query attention, small and with random weights: eight layers, 256 tokens.

plan --budget 50% --optimizer adamw examples/llama.py
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def build():
    config = LlamaConfig(
        num_hidden_layers=8,
        hidden_size=192,
        intermediate_size=512,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=4096,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    tokens = torch.randint(config.vocab_size, (4, 256))
    return model, {"input_ids": tokens, "labels": tokens}
