"""Training steps of real models at real sizes, captured on fake tensors with the roofline of an H100: no memory, no GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from remat_planner.planner.planning import Settings, trace_step
from remat_planner.schedules import Graph, TrainingState

Step = tuple[nn.Module, tuple[Any, ...], dict[str, Any], Callable[[Any], torch.Tensor] | None]


@dataclass(frozen=True)
class Model:
    """A model of the tables.

    Attributes:
        name: of ``build``'s model.
        build: called within a fake tensor mode.
        gap: percent of the step's time that the schedule may be above its bound.
        shares: budgets, as shares of the peak without recomputation.
        shard: GPUs that share parameters and gradients; whole, those of the largest models take more than any of the budgets.
    """

    name: str
    build: Callable[[], Step]
    gap: float
    shares: tuple[float, ...] = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2)
    shard: int = 1


def gpt2() -> Step:
    """GPT-2 small: 12 layers of width 768, 4 x 1,024 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = torch.zeros(4, 1024, dtype=torch.long)
    return GPT2LMHeadModel(GPT2Config(use_cache=False)), (), {"input_ids": tokens, "labels": tokens}, None


def llama(layers: int, width: int, inner: int, heads: int, groups: int) -> Callable[[], Step]:
    """A Llama in bfloat16 on 8,192 tokens."""

    def build() -> Step:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            intermediate_size=inner,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            max_position_embeddings=8192,
            use_cache=False,
        )
        tokens = torch.zeros(1, 8192, dtype=torch.long)
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        return model, (), {"input_ids": tokens, "labels": tokens}, None

    return build


def resnet50() -> Step:
    """ResNet-50 on 64 images."""
    from transformers import ResNetConfig, ResNetForImageClassification

    inputs = {"pixel_values": torch.zeros(64, 3, 224, 224), "labels": torch.zeros(64, dtype=torch.long)}
    return ResNetForImageClassification(ResNetConfig()), (), inputs, None


def t5() -> Step:
    """T5 small on 8 x 512 tokens each way."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokens = torch.zeros(8, 512, dtype=torch.long)
    return (
        T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, use_cache=False)),
        (),
        {"input_ids": tokens, "labels": tokens},
        None,
    )


def unet() -> Step:
    """The U-Net of diffusers at its own size, 8 images of 64 x 64."""
    from diffusers import UNet2DModel

    model = UNet2DModel(sample_size=64)
    return model, (torch.zeros(8, 3, 64, 64), torch.zeros(8, dtype=torch.long)), {}, _mean_square_of_sample


def whisper() -> Step:
    """Whisper base on 4 x 30 seconds of sound and 128 tokens."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        use_cache=False,
    )
    inputs = {"input_features": torch.zeros(4, 80, 3000), "labels": torch.zeros(4, 128, dtype=torch.long)}
    return WhisperForConditionalGeneration(config), (), inputs, None


def bert() -> Step:
    """BERT base on 16 x 512 tokens."""
    from transformers import BertConfig, BertForMaskedLM

    tokens = torch.zeros(16, 512, dtype=torch.long)
    return BertForMaskedLM(BertConfig()), (), {"input_ids": tokens, "labels": tokens}, None


def vit() -> Step:
    """ViT base on 64 pictures."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.initialization import no_init_weights

    with no_init_weights():  # which looks at values
        model = ViTForImageClassification(ViTConfig())
    return model, (), {"pixel_values": torch.zeros(64, 3, 224, 224), "labels": torch.zeros(64, dtype=torch.long)}, None


def _mean_square_of_sample(output: Any) -> torch.Tensor:
    return output.sample.pow(2).mean()


MODELS = (
    Model("gpt2", gpt2, 0.5),
    Model("llama-7b", llama(32, 4096, 11008, 32, 32), 0.5),
    Model("resnet-50", resnet50, 1.0),
    Model("t5", t5, 0.5),
    Model("unet", unet, 1.0),
    Model("whisper", whisper, 0.5),
    Model("llama-70b", llama(80, 8192, 28672, 64, 8), 1.0, (0.5, 0.3), shard=64),
    Model("llama-405b", llama(126, 16384, 53248, 128, 8), 1.0, (0.5, 0.3), shard=512),
)

# In the tables with copies alone.
MORE_MODELS = (Model("bert", bert, 0.5), Model("vit", vit, 0.5))


def trace_model(model: Model) -> Graph:
    """The training step of a model as a graph."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        module, args, kwargs, loss = model.build()
        module.train()
    settings = Settings(loss=loss, costs="h100", training=TrainingState(shard=model.shard))
    return trace_step(module, args, kwargs, settings=settings).graph
