"""The architectures of x-transformers: a decoder with each of its switches on, and its other wrappers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import x_transformers
from torch import nn
from x_transformers.x_transformers import AttentionLayers

from benchmarks.zoo.architectures import Architecture, Candidate, in_words

_BATCH, _TOKENS, _WORDS, _WIDTH = 8, 64, 128, 64
_LAYERS: dict[str, Any] = {"dim": _WIDTH, "depth": 4, "heads": 4, "attn_dim_head": 16}
_NEED: dict[str, dict[str, Any]] = {
    "use_adaptive_layernorm": {"dim_condition": _WIDTH},
    "use_adaptive_rmsnorm": {"dim_condition": _WIDTH},
    "dynamic_pos_bias_log_distance": {"dynamic_pos_bias": True},
    "rotary_xpos": {"rotary_pos_emb": True},
    "attn_use_latent_q": {"attn_dim_latent_q": 16},
    "attn_use_latent_kv": {"attn_dim_latent_kv": 16},
    "attn_aggregated_residuals": {"dim": 2 * _WIDTH},
    "attn_flash_pack_seq": {"attn_flash": True, "rotary_pos_emb": True},
}
"""What some switches need beside themselves, or in another size."""

_SET_BY_LAYERS = ("attn_learned_value_residual_mix", "attn_qkv_receive_diff_residuals")
"""Switches of a part that the layers set by their own."""


def architectures() -> list[Architecture]:
    """One for each switch of the layers, of their attention and of their feed-forward network, and one for each wrapper."""
    parts = (("", AttentionLayers), ("attn_", x_transformers.Attention), ("ff_", x_transformers.FeedForward))
    switches = [
        prefix + name
        for prefix, part in parts
        for name, parameter in inspect.signature(part.__init__).parameters.items()
        if parameter.default is False and name not in ("causal", "cross_attend", "only_cross", "on_attn", "onnxable")
    ]
    found = [Architecture(name, partial(_built, partial(_decoder, name))) for name in switches if name not in _SET_BY_LAYERS]
    return found + [Architecture(name, partial(_built, build)) for name, build in _WRAPPERS.items()]


def _built(build: Callable[[], Candidate]) -> Iterator[Candidate | str]:
    torch.manual_seed(0)
    try:
        candidate = build()
    except Exception as error:
        yield in_words(error)
        return
    candidate.model.train()
    yield candidate
    condition = torch.randn(_BATCH, _WIDTH)
    yield Candidate(candidate.model, candidate.args, {"condition": condition})


def _words() -> torch.Tensor:
    return torch.randint(0, _WORDS, (_BATCH, _TOKENS))


def _transformer(layers: nn.Module, **options: Any) -> nn.Module:
    return x_transformers.TransformerWrapper(num_tokens=_WORDS, max_seq_len=_TOKENS, attn_layers=layers, **options)


def _decoder(switch: str) -> Candidate:
    layers = x_transformers.Decoder(**{**_LAYERS, switch: True, **_NEED.get(switch, {})})
    return Candidate(x_transformers.AutoregressiveWrapper(_transformer(layers)), (_words(),))


def _of_words(wrap: Callable[[nn.Module], nn.Module], layers: type[nn.Module], **options: Any) -> Callable[[], Candidate]:
    return lambda: Candidate(wrap(_transformer(layers(**_LAYERS), **options)), (_words(),))


def _image() -> Candidate:
    model = x_transformers.ViTransformerWrapper(
        image_size=64, patch_size=8, num_classes=10, attn_layers=x_transformers.Encoder(**_LAYERS)
    )
    return Candidate(model, (torch.randn(_BATCH, 3, 64, 64),))


def _encoder_and_decoder() -> Candidate:
    sizes = {
        f"{side}_{name}": value
        for side in ("enc", "dec")
        for name, value in (("num_tokens", _WORDS), ("depth", 2), ("heads", 4), ("max_seq_len", _TOKENS))
    }
    return Candidate(x_transformers.XTransformer(dim=_WIDTH, **sizes), (_words(), _words()))


def _continuous() -> Candidate:
    model = x_transformers.ContinuousTransformerWrapper(
        dim_in=16, dim_out=16, max_seq_len=_TOKENS, attn_layers=x_transformers.Decoder(**_LAYERS)
    )
    return Candidate(x_transformers.ContinuousAutoregressiveWrapper(model), (torch.randn(_BATCH, _TOKENS, 16),))


def _same(model: nn.Module) -> nn.Module:
    return model


_WRAPPERS: dict[str, Callable[[], Candidate]] = {
    "Encoder": _of_words(_same, x_transformers.Encoder),
    "Decoder": _of_words(x_transformers.AutoregressiveWrapper, x_transformers.Decoder),
    "memory tokens": _of_words(x_transformers.AutoregressiveWrapper, x_transformers.Decoder, num_memory_tokens=4),
    "ViTransformerWrapper": _image,
    "XTransformer": _encoder_and_decoder,
    "ContinuousAutoregressiveWrapper": _continuous,
}
