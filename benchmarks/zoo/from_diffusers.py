"""The architectures of diffusers: each of its models, from the defaults of its constructor, shrunk by rule."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import diffusers.models as models
import torch
from diffusers import ModelMixin

from benchmarks.zoo.architectures import Architecture, Candidate, in_words
from benchmarks.zoo.shrink import SCALES, Scale, Shrinker

BATCH = 2
_TOKENS = 8
_MOST_PARAMETERS = 30_000_000


def architectures() -> list[Architecture]:
    """One for each class of models that the library exports."""
    found = []
    for name in dir(models):
        try:
            model_class = getattr(models, name)
        except Exception:  # it needs a library that is not there
            continue
        if isinstance(model_class, type) and issubclass(model_class, ModelMixin) and hasattr(model_class, "forward"):
            found.append(Architecture(name, partial(_candidates, model_class)))
    return found


def _candidates(model_class: type[Any]) -> Iterator[Candidate | str]:
    for scale in (Scale(image=16), *SCALES):
        try:
            arguments = _arguments(model_class, scale)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in model_class(**arguments).parameters())
            if size > _MOST_PARAMETERS:
                yield f"{size:,} parameters at tiny size"
                continue
            torch.manual_seed(0)
            model = model_class(**arguments).train()
            for inputs in _inputs(model):
                yield Candidate(model, (), inputs)
        except Exception as error:
            yield in_words(error)


def _arguments(model_class: type[Any], scale: Scale) -> dict[str, Any]:
    shrinker = Shrinker(scale)
    parameters = list(inspect.signature(model_class.__init__).parameters.values())[1:]
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    tiny = {name: _tiny(shrinker, name, value) for name, value in given.items()}
    # As many axes of a rotary embedding as before, which add up to the width of a head.
    for name in ("axes_dims_rope", "axes_dim", "axes_dims"):
        if tiny.get(name):
            rest = scale.head // 4 * 2
            tiny[name] = type(tiny[name])([rest // 2, rest // 2, scale.head - rest][-len(tiny[name]) :])
    return tiny


def _tiny(shrinker: Shrinker, name: str, value: Any) -> Any:
    if name == "norm_num_groups" and isinstance(value, int):
        return min(value, 8)
    if name == "block_out_channels":
        return type(value)(32 * (i + 1) for i in range(len(value)))
    if name == "layers_per_block" and isinstance(value, int):
        return 1
    return shrinker(name, value)


def _inputs(model: Any) -> Iterator[dict[str, Any]]:
    """Pictures, then clips, then rows of tokens, as the model's main input."""
    names = inspect.signature(model.forward).parameters
    config = model.config
    numbers = [config.get(name) for name in ("in_channels", "audio_channels", "num_channels", "latent_channels")]
    all_channels = dict.fromkeys((*(n for n in numbers if isinstance(n, int)), 4, 3))
    width = config.get("cross_attention_dim") or config.get("joint_attention_dim") or config.get("caption_channels")
    width = next((n for n in (width, config.get("text_dim"), config.get("text_embed_dim"), 64) if isinstance(n, int)), 64)
    main = next((name for name in ("sample", "hidden_states", "x") if name in names), None)
    if main is None:
        return
    fixed: dict[str, Any] = {
        "timestep": torch.tensor([3, 7]),
        "timesteps": torch.tensor([3, 7]),
        "timestep_r": torch.tensor([1, 2]),
        "num_frames": 1,
        "height": 4,
        "width": 4,
        "image_rotary_emb": None,
        "position_ids": torch.zeros(BATCH, 16, 3, dtype=torch.long),
        "encoder_hidden_states": torch.randn(BATCH, _TOKENS, width),
        "encoder_hidden_states_mask": torch.ones(BATCH, _TOKENS, dtype=torch.long),
        "encoder_attention_mask": torch.ones(BATCH, _TOKENS),
        "pooled_projections": torch.randn(BATCH, config.get("pooled_projection_dim") or 64),
        "guidance": torch.ones(BATCH),
        "txt_ids": torch.zeros(_TOKENS, 3),
        "class_labels": torch.tensor([1, 2]),
        "conditioning": torch.randn(BATCH, 3, 128, 128),
        "controlnet_cond": torch.randn(BATCH, 3, 128, 128),
    }
    required = {name for name, p in names.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    wanted = required | (names.keys() & {"timestep", "encoder_hidden_states", "pooled_projections", "txt_ids"})
    for channels in all_channels:
        for shape in ((16, 16), (4, 16, 16), (64, 64), (16,), (64,), (5, 32, 32), (4096,), None):
            rows = torch.randn(BATCH, 16, channels) if shape is None else torch.randn(BATCH, channels, *shape)
            kwargs = {main: rows, **{name: fixed[name] for name in fixed if name in wanted}}
            if "img_ids" in names:
                kwargs["img_ids"] = torch.zeros(16, 3)
            yield kwargs
