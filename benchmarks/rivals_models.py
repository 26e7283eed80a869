"""The models of ``benchmarks.rivals``: repeated blocks, dropout and batch normalisation as published, a step of 0.05 to 0.5 s.

The seconds are those of one core of a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmarks.gpu_models import CLASSES, Built, Case, denoising, gpt2, llama, resnet, t5, unet, vit


class Residual(nn.Module):
    """A normalised layer with a hidden one inside, dropped out and added to what it was given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.1)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[batch, width] to the same."""
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class Perceptron(nn.Module):
    """Residual layers and a head that classifies."""

    def __init__(self, layers: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Residual(width) for _ in range(layers))
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of classifying ``x``, float[batch, width], as ``labels``, int64[batch]."""
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.head(x), labels)


def _mlp(layers: int, batch: int, width: int) -> Built:
    inputs = {"x": torch.randn(batch, width), "labels": torch.randint(0, 10, (batch,))}
    return Perceptron(layers, width, 10).train(), inputs


def _bert(batch: int, length: int, **sizes: Any) -> Built:
    from transformers import BertConfig, BertForSequenceClassification

    tokens = torch.randint(0, 200, (batch, length))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": torch.randint(0, 2, (batch,))}
    return BertForSequenceClassification(BertConfig(problem_type=CLASSES, **sizes)).train(), inputs


def _whisper(batch: int, frames: int, length: int, **sizes: Any) -> Built:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = WhisperConfig(
        num_mel_bins=40, max_source_positions=frames // 2, max_target_positions=length, use_cache=False, **special, **sizes
    )
    inputs = {"input_features": torch.randn(batch, 40, frames), "labels": torch.randint(3, 200, (batch, length))}
    return WhisperForConditionalGeneration(config).train(), inputs


def _mamba(batch: int, length: int, **sizes: Any) -> Built:
    from transformers import MambaConfig, MambaForCausalLM

    tokens = torch.randint(0, 200, (batch, length))
    return MambaForCausalLM(MambaConfig(use_cache=False, **sizes)).train(), {"input_ids": tokens, "labels": tokens}


_LLAMA = {"num_hidden_layers": 6, "hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 6, "vocab_size": 1000}
_BERT = {"num_hidden_layers": 5, "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6, "vocab_size": 1000}
_VIT = {"num_hidden_layers": 6, "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6, "patch_size": 8}
_T5 = {"num_layers": 3, "d_model": 128, "d_ff": 512, "d_kv": 32, "num_heads": 4, "vocab_size": 1000, "pad_token_id": 0}
_WHISPER = {
    "encoder_layers": 3,
    "decoder_layers": 3,
    "d_model": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "vocab_size": 1000,
    "dropout": 0.1,
}
_RESNET = {"embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [2, 2, 2, 2], "layer_type": "basic"}
_MAMBA = {"num_hidden_layers": 3, "hidden_size": 96, "state_size": 8, "vocab_size": 200, "time_step_rank": 8}

CASES = {
    "gpt2": Case(gpt2(3, 128, n_embd=192, n_layer=5, n_head=6, vocab_size=1000)),
    "llama": Case(llama(3, 128, **_LLAMA)),
    "bert": Case(lambda: _bert(3, 128, **_BERT)),
    "vit": Case(vit(6, 64, **_VIT)),
    "t5": Case(t5(4, 96, **_T5)),
    "whisper": Case(lambda: _whisper(4, 256, 64, **_WHISPER)),
    "resnet": Case(resnet(8, 96, **_RESNET)),
    "unet": Case(unet(2, 32, 32, 64, 64), loss=denoising),
    "mlp": Case(lambda: _mlp(10, 512, 192)),
    "mamba": Case(lambda: _mamba(8, 12, **_MAMBA)),
}

QUICK_CASES = {
    "gpt2": Case(gpt2(2, 64, n_embd=64, n_layer=3, n_head=4, vocab_size=256)),
    "resnet": Case(resnet(4, 32, embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic")),
    "mlp": Case(lambda: _mlp(6, 128, 64)),
}
