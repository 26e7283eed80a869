"""The architectures of transformers: each model type, by the class that trains it most usually."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from benchmarks.zoo.architectures import Architecture, Candidate, NotTrainableError, in_words
from benchmarks.zoo.shrink import SCALES, VOCABULARY, Shrinker
from benchmarks.zoo.transformers_inputs import possible_inputs

_TASKS = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "CTC",
    "MASKED_LM",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "OBJECT_DETECTION",
    "ZERO_SHOT_OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "UNIVERSAL_SEGMENTATION",
    "INSTANCE_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "IMAGE_TO_IMAGE",
    "AUDIO_CLASSIFICATION",
    "TIME_SERIES_PREDICTION",
    "SEQUENCE_CLASSIFICATION",
    "PRETRAINING",
)
"""Tasks, the most usual first; the class of an architecture is that of the first one that it has, else its bare model."""

_FILLED = {
    "vocab_size": VOCABULARY,
    "prediction_length": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "rope_theta": 10000.0,
}
"""Numbers without which a configuration makes no model."""

_OF_CONFIG: dict[str, dict[str, Any]] = {
    "AlignConfig": {"projection_dim": 80},
    "ChameleonConfig": {"vocabulary_map": {"<image>": 150}},
    "ClapAudioConfig": {"patch_embeds_hidden_size": 8},
    "CohereCompassTextConfig": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "DbrxAttentionConfig": {"rope_theta": 10000.0},
    "EfficientNetConfig": {"hidden_dim": 2560},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]]},
    "Glm5NextTextConfig": {"index_topk": 16, "index_kpool": 4},
    "Molmo2AdapterConfig": {"vision_feature_layer": [1, 0]},
    "MoonshineStreamingConfig": {"num_key_value_heads": 2},
    "Qwen2_5OmniThinkerConfig": {"vision_start_token_id": 130},
    "Qwen3OmniMoeThinkerConfig": {"vision_start_token_id": 130},
    "ReformerConfig": {"is_decoder": True, "axial_pos_embds": False},
    "SegGptConfig": {"intermediate_hidden_state_indices": (1, 1, 1, 1), "merge_index": 0},
    "Step3p7TextConfig": {"sliding_window": 8},
    "T5Gemma2TextConfig": {"dropout_rate": 0.0},
    "TimmBackboneConfig": {"backbone": "resnet18"},
    "TvpConfig": {"visual_prompt_size": 16},
    "XmodConfig": {"default_language": "en_XX"},
}
"""Arguments of single configurations: what theirs leave to a file of weights, and numbers that no rule makes fit."""

_PLACEHOLDER = re.compile(r"(image|audio|video)_token_(id|index)")
"""Names of the tokens in whose place the features of a picture or sound come."""

_OF_HEADS = ("head_dim", "num_key_value_heads")
"""Numbers that some configurations leave to the files of weights."""

_LARGE = 2**20
_VARIES = object()
"""The value of what differs from layer to layer, which the configuration then refuses to say."""

_SET_BY_USERS = ("pad_token_id", "decoder_start_token_id")
"""Tokens that batches and decoders need, and that many configurations leave to those who train."""

_MOST_PARAMETERS = 60_000_000
_MOST_CLASSES = 2


def architectures() -> list[Architecture]:
    """One for each class of models that the automatic classes know."""
    by_type: dict[str, list[str]] = {}
    for task in (*(f"MODEL_FOR_{task}" for task in _TASKS), "MODEL"):
        for model_type, names in getattr(modeling_auto, f"{task}_MAPPING_NAMES").items():
            by_type.setdefault(model_type, []).extend([names] if isinstance(names, str) else names)
    longest_first = sorted(by_type, key=lambda model_type: (-len(model_type), model_type))
    types_of = {by_type[model_type][0]: model_type for model_type in longest_first}  # of types that share a class, the shortest
    return [Architecture(model_type, partial(_candidates, model_type, by_type[model_type])) for model_type in types_of.values()]


def _candidates(model_type: str, classes: list[str]) -> Iterator[Candidate | str]:
    """Models of the first classes at each scale, with each form of inputs."""
    known = [getattr(transformers, name) for name in dict.fromkeys(classes) if hasattr(transformers, name)]
    models = [model for model in known if _has_forward(model)]
    if not models:
        raise NotTrainableError("its class has no forward")
    for model_class in models[:_MOST_CLASSES]:
        for scale in SCALES:
            try:
                config = shrunk(_config_class(model_class, model_type)(), Shrinker(scale))
                for name in _SET_BY_USERS:
                    if getattr(config, name, None) is None:
                        setattr(config, name, 0)
                if reason := _too_large(model_class, config):
                    yield reason
                    continue
                torch.manual_seed(0)
                model = model_class(config).train()
            except Exception as error:
                yield in_words(error)
                continue
            try:
                for inputs in possible_inputs(model, config):
                    yield Candidate(model, (), inputs)
            except NotTrainableError:
                raise
            except Exception as error:
                yield in_words(error)


def _has_forward(model_class: Any) -> bool:
    """Whether the class has a forward of its own; one that needs a library which is not there says so when it is built."""
    try:
        return "_forward_unimplemented" not in model_class.forward.__name__
    except ImportError:
        return True


def _config_class(model_class: type[PreTrainedModel], model_type: str) -> type[PreTrainedConfig]:
    """That of the class, where it is for a part of the architecture (a decoder alone), else that of the architecture."""
    whole, own = CONFIG_MAPPING[model_type], model_class.config_class
    return whole if own is None or issubclass(whole, own) else own


def shrunk(config: PreTrainedConfig, shrinker: Shrinker) -> PreTrainedConfig:
    """The configuration made anew from tiny numbers; what it derives from others by itself is left to it."""
    arguments: dict[str, Any] = {}
    values = {field.name: _value(config, field.name) for field in dataclasses.fields(config) if field.init}
    for field in dataclasses.fields(config):
        name, value = field.name, values.get(field.name)
        if not field.init or name.startswith("_") or value is _VARIES:
            continue
        if isinstance(value, PreTrainedConfig):
            arguments[name] = shrunk(value, shrinker)
        elif name == "use_cache":
            arguments[name] = False
        elif name == "rope_parameters":
            arguments[name] = _rotary(config, value, shrinker)
        elif value is None and name in _FILLED:
            arguments[name] = _FILLED[name]
        elif value is None and _PLACEHOLDER.fullmatch(name):
            arguments[name] = shrinker(name, -1)
        elif value is None and name in _OF_HEADS:
            arguments[name] = shrinker(name, _LARGE)
        elif name == "num_key_value_heads" and value == values.get("num_attention_heads"):
            arguments[name] = shrinker("num_attention_heads", value)
        elif isinstance(value, (list, tuple)) and len(value) == values.get("num_hidden_layers"):
            arguments[name] = shrinker.of_layers(shrinker(name, value), shrinker("num_hidden_layers", len(value)))
        elif field.default is not None or isinstance(value, (int, str)):  # what is left is derived from others
            arguments[name] = shrinker(name, value)
    arguments |= _OF_CONFIG.get(type(config).__name__, {})
    return _with_outputs(type(config), arguments, len(_value(config, "out_indices") or ()))


def _with_outputs(kind: type[PreTrainedConfig], arguments: dict[str, Any], outputs: int) -> PreTrainedConfig:
    """The configuration, with as many outputs of a backbone as before, the last ones that the tiny one has."""
    config = kind(**arguments)
    stages = len(getattr(config, "stage_names", ()))
    if not 1 < outputs < stages:
        return config
    arguments.pop("out_features", None)
    return kind(**{**arguments, "out_indices": list(range(stages - outputs, stages))})


def _value(config: PreTrainedConfig, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:
        return _VARIES


def _rotary(config: PreTrainedConfig, value: Any, shrinker: Shrinker) -> Any:
    """The parameters of rotary embeddings, with a base, and with sections that add up to the width of a tiny head."""
    if not isinstance(value, dict) or any(isinstance(inner, dict) for inner in value.values()):
        return value
    value = {**value, "rope_theta": value.get("rope_theta") or 10000.0}
    if "mrope_section" in getattr(config, "ignore_keys_at_rope_validation", ()):
        value.setdefault("mrope_section", [1, 1, 1])
    return shrinker("rope_parameters", value)


def _too_large(model_class: type[nn.Module], config: PreTrainedConfig) -> str:
    """A word on a model that stays too large; "" where it is small, or cannot be built on paper."""
    try:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in model_class(config).parameters())
    except Exception:
        return ""
    return f"{size:,} parameters at tiny size" if size > _MOST_PARAMETERS else ""
