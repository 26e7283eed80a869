"""GPT-2 with dropout, small and with random weights: six layers, 256 tokens.

plan --budget 60% examples/gpt2.py
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def build():
    config = GPT2Config(
        n_layer=6, n_head=4, n_embd=256, vocab_size=4096, n_positions=256, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"
    tokens = torch.randint(config.vocab_size, (4, 256))
    return model, {"input_ids": tokens, "labels": tokens}
