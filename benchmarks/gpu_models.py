"""The models of ``benchmarks.gpu``: how each is built and what it is trained on. The headline first, then by importance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

Built = tuple[nn.Module, dict[str, torch.Tensor]]
CLASSES = "single_label_classification"  # as the first step finds; found so late, torch.compile would compile twice


@dataclass(frozen=True)
class Case:
    """A model, and its budgets: shares of the peak without recomputation, or bytes beside what is always there.

    Attributes:
        build: the model and its named inputs, on the device that is the default when it is called.
        loss: output -> scalar, where the output carries none.
        uniform: whether its layers are one list in which each takes what the one before it gives, as decoders are.
    """

    build: Callable[[], Built]
    budgets: tuple[str | int, ...] = ("70%", "50%", "35%")
    loss: Callable[[Any], torch.Tensor] | None = None
    uniform: bool = False


class LossOnly(nn.Module):
    """A language model that hands out its loss and drops its logits, as the headline's caller does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of predicting ``labels``, both int64[batch, tokens]."""
        return self.model(input_ids=input_ids, labels=labels).loss


def _tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 256, (batch, length))
    return {"input_ids": ids, "labels": ids}


def _images(batch: int, size: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 3, size, size), "labels": torch.randint(0, 2, (batch,))}


def llama(batch: int, length: int, **sizes: int) -> Callable[[], Built]:
    def build() -> Built:
        config = LlamaConfig(use_cache=False, attn_implementation="sdpa", max_position_embeddings=16384, **sizes)
        return LossOnly(LlamaForCausalLM(config)).train(), _tokens(batch, length)

    return build


def gpt2(batch: int, length: int, **sizes: int) -> Callable[[], Built]:
    def build() -> Built:
        config = GPT2Config(use_cache=False, attn_implementation="sdpa", **sizes)
        model = GPT2LMHeadModel(config).train()
        model.loss_type = "ForCausalLM"  # what it falls back to with a warning, at which torch.compile would cut its graph
        return model, _tokens(batch, length)

    return build


def vit(batch: int, size: int, **sizes: int) -> Callable[[], Built]:
    def build() -> Built:
        config = ViTConfig(attn_implementation="sdpa", image_size=size, problem_type=CLASSES, **sizes)
        return ViTForImageClassification(config).train(), _images(batch, size)

    return build


def resnet(batch: int, size: int, **sizes: Any) -> Callable[[], Built]:
    def build() -> Built:
        return ResNetForImageClassification(ResNetConfig(problem_type=CLASSES, **sizes)).train(), _images(batch, size)

    return build


def t5(batch: int, length: int, **sizes: Any) -> Callable[[], Built]:
    def build() -> Built:
        return T5ForConditionalGeneration(T5Config(use_cache=False, decoder_start_token_id=0, **sizes)).train(), _tokens(
            batch, length
        )

    return build


def unet(batch: int, size: int, *channels: int) -> Callable[[], Built]:
    def build() -> Built:
        from diffusers import UNet2DModel

        attention = len(channels) - 2
        model = UNet2DModel(
            sample_size=size,
            in_channels=4,
            out_channels=4,
            block_out_channels=channels,
            norm_num_groups=min(32, channels[0]),
            down_block_types=[*["DownBlock2D"] * attention, "AttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * attention],
        )
        return model.train(), {"sample": torch.randn(batch, 4, size, size), "timestep": torch.randint(0, 1000, (batch,))}

    return build


def denoising(output: Any) -> torch.Tensor:
    return output.sample.float().square().mean()


_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}
_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
_VIT_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 16,
    "num_labels": 1000,
}
_T5_LARGE = {"d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_layers": 24, "num_heads": 16}

CASES = {
    "llama-7b-35of120": Case(llama(2, 9792, **_7B), (35 * 10**9,), uniform=True),
    "llama-7b-40of80": Case(llama(2, 6528, **_7B), (40 * 10**9,), uniform=True),
    "gpt2-medium": Case(gpt2(8, 1024, n_embd=1024, n_layer=24, n_head=16), uniform=True),
    "resnet-50": Case(resnet(256, 224, num_labels=1000)),
    "vit-l": Case(vit(64, 224, **_VIT_L), uniform=True),
    "llama-1b": Case(llama(2, 4096, **_1B), uniform=True),
    "unet": Case(unet(16, 64, 320, 640, 1280, 1280), loss=denoising),
    "t5-large": Case(t5(8, 512, **_T5_LARGE)),
}
SHORT_7B = Case(llama(2, 6528, **_7B | {"num_hidden_layers": 4}), uniform=True)
"""The headline's model with four of its layers."""

_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "vocab_size": 256,
}
_TINY_VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
_TINY_RESNET = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]}
_TINY_T5 = {
    "d_model": 32,
    "d_ff": 64,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 256,
}
CPU_CASES = {
    "tiny-llama": Case(llama(2, 128, **_TINY), ("70%",), uniform=True),
    "tiny-gpt2": Case(gpt2(2, 128, n_embd=64, n_layer=4, n_head=4, vocab_size=256), ("70%",), uniform=True),
    "tiny-resnet": Case(resnet(4, 32, **_TINY_RESNET), ("70%",)),
    "tiny-vit": Case(vit(4, 32, **_TINY_VIT), ("70%",), uniform=True),
    "tiny-unet": Case(unet(2, 16, 8, 8, 8), ("70%",), loss=denoising),
    "tiny-t5": Case(t5(2, 32, **_TINY_T5), ("70%",)),
}
