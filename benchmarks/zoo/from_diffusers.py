"""The architectures of diffusers: each of its models, from the defaults of its constructor, shrunk by rule."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import diffusers.models as models
import torch
from diffusers import ModelMixin

from benchmarks.zoo.architectures import Architecture, Candidate, in_words
from benchmarks.zoo.diffusers_inputs import possible_inputs
from benchmarks.zoo.shrink import SCALES, Scale, Shrinker

_MOST_PARAMETERS = 60_000_000
_MOST_BUILT = 2
_AXES = re.compile(r"axes_dims?(_rope)?|rope_axes_dim|rope_dim(_list)?")

_FILLED = {
    "in_channels": 8,
    "out_channels": 8,
    "latent_channels": 4,
    "input_channels": 3,
    "patch_size": 2,
    "sample_size": 16,
    "spatial_compression_ratio": 4,
    "layers_per_block": 1,
    "num_kv_heads": 4,
    "block_out_channels": (32, 64, 64),
    "axes_dim": (8, 8),
    "control_in_dim": 64,
}
"""Numbers that a constructor needs and that have no default."""

_TINY = {
    "norm_num_groups": 8,
    "groups": 8,
    "layers_per_block": 1,
    "base_dim": 16,
    "decoder_base_dim": 16,
    "ch": 32,
    "n_kv_heads": 4,
    "encoder_dim": 16,
    "decoder_dim": 128,
    "latent_dim": 64,
    "encoder_hidden_size": 32,
    "decoder_channels": 32,
    "multiple_of": 32,
    "max_text_seq_length": 8,
    "text_len": 8,
    "text_len_t5": 8,
    "num_embeddings": 8,
    "num_routed_experts": 4,
}
"""The largest numbers of a tiny model, where the rules for all libraries are not for these names."""

_OF_CLASS: dict[str, dict[str, Any]] = {
    "AutoencoderKLKVAE": {"channels": 32},
    "AutoencoderKLMochi": {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4},
    "AutoencoderRAE": {"patch_size": 16},
    "LatteTransformer3DModel": {"num_embeds_ada_norm": 10, "caption_channels": 64, "norm_type": "ada_norm_single"},
    "HiDreamImageTransformer2DModel": {"caption_channels": [64, 64], "llama_layers": [0, 1]},
    "Kandinsky3UNet": {"block_out_channels": (32, 64, 64, 64)},
    "LTX2VideoDiffusionDecoderModel": {"decoder_stage_channels": (256, 128, 64, 64, 32), "decoder_head_dim": 32},
    "OmniGenTransformer2DModel": {"rope_scaling": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8}},
    "PRXTransformer2DModel": {"axes_dim": (8, 8)},
    "UNetSpatioTemporalConditionModel": {"projection_class_embeddings_input_dim": 192},
    "UVit2DModel": {"block_out_channels": 64, "in_channels": 64},
    "WanVACETransformer3DModel": {"vace_layers": [0, 1]},
    "Transformer2DModel": {"sample_size": 16, "in_channels": 8, "patch_size": None, "norm_num_groups": 4},
    "TransformerTemporalModel": {"in_channels": 8, "norm_num_groups": 4},
    "ZImageControlNetModel": {"control_layers_places": [0, 1], "control_refiner_layers_places": [0, 1]},
}
"""Arguments of single models."""

_CONTAINERS = re.compile(r"ModelMixin|\w*Multi[A-Z]\w+|MotionAdapter|ControlNetXSAdapter")
"""Classes that hold other models, which are given, or that have no forward of their own."""


def architectures() -> list[Architecture]:
    """One for each class of models that the library exports."""
    found = []
    for name in dir(models):
        try:
            model_class = getattr(models, name)
        except Exception:  # it needs a library that is not there
            continue
        is_model = isinstance(model_class, type) and issubclass(model_class, ModelMixin) and hasattr(model_class, "forward")
        if is_model and not _CONTAINERS.fullmatch(name):
            found.append(Architecture(name, partial(_candidates, model_class)))
    return found


def _candidates(model_class: type[Any]) -> Iterator[Candidate | str]:
    built = 0
    for scale in (Scale(image=16), *SCALES):
        if built >= _MOST_BUILT:  # other numbers do not help where no input fits
            return
        earlier: dict[str, Any] = {}
        for filled in (False, True):
            try:
                arguments = _arguments(model_class, scale, filled=filled)
                if arguments == earlier:
                    continue
                earlier = arguments
                with torch.device("meta"):
                    size = sum(parameter.numel() for parameter in model_class(**arguments).parameters())
                if size > _MOST_PARAMETERS:
                    yield f"{size:,} parameters at tiny size"
                    continue
                torch.manual_seed(0)
                model = model_class(**arguments).train()
            except Exception as error:
                yield in_words(error)
                continue
            built += 1
            yield from (
                Candidate(model, (), inputs) if isinstance(inputs, dict) else inputs for inputs in possible_inputs(model)
            )


def _arguments(model_class: type[Any], scale: Scale, *, filled: bool) -> dict[str, Any]:
    """The arguments of the constructor; those without a number get one only where ``filled``."""
    shrinker = Shrinker(scale)
    parameters = list(inspect.signature(model_class.__init__).parameters.values())[1:]
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    tiny = {name: _tiny(shrinker, name, value) for name, value in given.items()}
    missing = {p.name for p in parameters if p.default is p.empty or (filled and p.default is None)}
    tiny |= {name: value for name, value in _FILLED.items() if name in missing}
    for name in ("block_out_channels", "decoder_block_out_channels"):
        if filled and isinstance(widths := given.get(name), (tuple, list)):  # in the proportions that they have
            tiny[name] = type(widths)(min(128, 32 * width // min(widths)) for width in widths)
    # As many axes of a rotary embedding as before, which add up to the width of a head.
    for name, value in tiny.items():
        if _AXES.fullmatch(name) and isinstance(value, (list, tuple)) and value:
            rest = [scale.head // 4] * (len(value) - 1)
            tiny[name] = type(value)([*rest, scale.head - sum(rest)])
    return tiny | _OF_CLASS.get(model_class.__name__, {})


def _tiny(shrinker: Shrinker, name: str, value: Any) -> Any:
    if name in _TINY and isinstance(value, int):
        return min(value, _TINY[name])
    if name == "block_out_channels" and isinstance(value, (tuple, list)):
        return type(value)(32 * (i + 1) for i in range(len(value)))
    return shrinker(name, value)
