"""The inputs of one training step of a model of diffusers: known names, and widths that the model's own errors tell."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.architectures import in_words

BATCH = 2
_TOKENS = 8
_MOST_CORRECTIONS = 12

_CHANNELS = -1
_SHAPES = (
    (_CHANNELS, 16, 16),
    (_CHANNELS, 5, 16, 16),
    (_CHANNELS, 4, 16, 16),
    (4, _CHANNELS, 16, 16),
    (16, _CHANNELS),
    (4, 16, 16, _CHANNELS),
    (_CHANNELS, 64, 64),
    (_CHANNELS, 64),
    (_CHANNELS, 9, 32, 32),
    (_CHANNELS, 16, 64, 64),
    (_CHANNELS, 4096),
    (_CHANNELS, 8, 64, 64),
    (_CHANNELS, 17, 64, 64),
)
"""Shapes of the main input: pictures, clips, rows of tokens, waves."""

_MAIN = ("sample", "hidden_states", "x", "z", "mel", "latents", "inputs_embeds", "source_hidden_states", "input_ids")
_OTHER_WIDTHS = (
    r"expected input\[[^]]*\] to have (\d+) channels, but got (\d+) channels",
    r"cannot be multiplied \(\d+x(\d+) and (\d+)x",
    r"normalized_shape=\[(\d+)\].* input of size\[.*?(\d+)\]$",
    r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)",
    r"Expected size (\d+) but got size (\d+)",
    r"expected (\d+) \w+ channels, got (\d+)",
    r"must have shape \[batch_size, (\d+), samples\], got \(\d+, (\d+)",
)
"""What errors say about an input that is too wide or too narrow: its width and the right one."""

_PATCHES = (4, 8)
"""Numbers of elements of a patch, which are one row."""

_OF_NUMBERS, _OF_FLOATS, _OF_SAMPLES, _OF_FRAMES = 1009, 1013, 1019, 1021  # kinds of masks and times, beside the widths
_FIRST_WIDTHS = {
    "main": 7,
    "text": 37,
    "text_2": 41,
    "pooled": 43,
    "second": 11,
    "image": 47,
    "masks": _OF_NUMBERS,
    "times": _OF_SAMPLES,
}
"""Widths to begin with: different primes, so that an error that names one, or a multiple, tells which input it is about."""

_AXES = ("axes_dims_rope", "axes_dim", "axes_dims")
"""Names of the widths of the axes that positions have."""

_SAID_BY_CONFIG = {
    "main": (
        "in_channels",
        "io_channels",
        "in_visual_dim",
        "latent_channels",
        "input_channels",
        "audio_channels",
        "latent_dim",
    ),
    "text": (
        *("text_dim", "text_embed_dim", "joint_attention_dim", "cap_feat_dim", "cross_attention_input_dim", "text_hidden_dim"),
        *("caption_channels", "context_in_dim", "cond_token_dim", "condition_dim", "llm_features_dim", "encoder_hid_dim"),
        *("encoder_hidden_size", "cross_attention_dim", "embedding_dim"),
    ),
    "text_2": ("text_embed_2_dim", "cross_attention_dim_t5", "audio_cross_attention_dim"),
    "pooled": ("pooled_projection_dim", "global_states_input_dim", "global_cond_dim", "embedding_dim"),
    "second": ("audio_in_channels", "audio_acoustic_hidden_dim", "conditioning_channels", "in_channels"),
    "image": ("image_embed_dim", "image_proj_dim", "image_dim", "cross_attention_dim"),
}
"""Names of widths in a model's configuration, for models whose errors do not tell them."""

_OTHER_KINDS = {
    "same dtype, but got Long": {"masks": _OF_FLOATS},
    "not enough values to unpack (expected 2, got 1)": {"times": _OF_FRAMES},
}
"""What errors say about masks of another dtype, and about times that are one for each frame."""


def possible_inputs(model: nn.Module) -> Iterator[dict[str, Any] | str]:
    """Forms of inputs with which the forward runs, pictures first; a string is why one does not."""
    names = inspect.signature(model.forward).parameters
    main = next((name for name in _MAIN if name in names), None)
    if main is None:
        yield "no main input is known"
        return
    config = dict(getattr(model, "config", {}))
    shapes = list(_SHAPES)
    for optional in (False, True):
        for first in (_FIRST_WIDTHS, _FIRST_WIDTHS | _said_by(config)):
            for shape in list(shapes):
                form = _corrected(model, main, shape, first, optional=optional)
                if isinstance(form, str) and _of_other_dimensions(form, len(shape) + 1):
                    shapes.remove(shape)
                yield form


def _of_other_dimensions(said: str, dimensions: int) -> bool:
    """Whether the model never takes a main input of so many dimensions."""
    words = (f"got {dimensions})", f"dimensions: got {dimensions} and", f"input.dim() = {dimensions} is not")
    return any(word in said for word in words) or (dimensions > 3 and "Expected 2D (unbatched) or 3D" in said)


def _said_by(config: dict[str, Any]) -> dict[str, int]:
    """The widths that the configuration names."""
    found = {key: [config.get(name) for name in names] for key, names in _SAID_BY_CONFIG.items()}
    numbers = {key: [value for value in values if isinstance(value, int) and value > 0] for key, values in found.items()}
    return {key: values[0] for key, values in numbers.items() if values}


def _corrected(
    model: nn.Module, main: str, shape: tuple[int, ...], first: dict[str, int], *, optional: bool
) -> dict[str, Any] | str:
    """Inputs whose widths are put right until the forward runs; the last error where it never does."""
    config = dict(getattr(model, "config", {}))
    widths = dict(first)
    said = ""
    for _ in range(_MOST_CORRECTIONS):
        inputs = _inputs(model, config, main, shape, widths, optional=optional)
        try:
            with torch.no_grad():
                model(**inputs)
        except Exception as error:
            said = in_words(error)
            other = next((kind for words, kind in _OTHER_KINDS.items() if words in said), None)
            correction = other or _correction(said, widths)
            if correction is None or correction.items() <= widths.items():
                return said
            widths |= correction
        else:
            return inputs
    return said


def _correction(said: str, widths: dict[str, int]) -> dict[str, int] | None:
    """The width that an error names, put right; one that was put right before is not touched."""
    found = next((match for pattern in _OTHER_WIDTHS if (match := re.search(pattern, said))), None)
    if found is None:
        return None
    numbers = [int(number) for number in found.groups()]
    for wrong, right in (numbers, reversed(numbers)):
        for key, first in _FIRST_WIDTHS.items():
            times = wrong // first
            if widths[key] == first and wrong == times * first and times and right % times == 0:
                return {key: right // times}
    wrong, right = numbers[::-1] if "but got" in said else numbers  # or beside others that are right
    for key, times in itertools.product(("second", "main"), (1, *_PATCHES)):  # in patches, beside one mask or two
        rest, most = wrong // times - widths[key], right if times == 1 else 3
        fits = wrong % times == 0 and right % times == 0 and rest < right // times
        if widths[key] == _FIRST_WIDTHS[key] and fits and 0 < rest < most:
            return {key: right // times - rest}
    return None


def _inputs(
    model: nn.Module,
    config: dict[str, Any],
    main: str,
    shape: tuple[int, ...],
    widths: dict[str, int],
    *,
    optional: bool,
) -> dict[str, Any]:
    names = inspect.signature(model.forward).parameters
    known = _known(config, shape, widths)
    if main != "input_ids":
        known[main] = _random(shape, widths["main"])
    if "Tensor" not in str(getattr(names.get("fps"), "annotation", "Tensor")):
        known["fps"] = 8
    required = {name for name, p in names.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    for name in required - known.keys():
        known[name] = _by_annotation(str(names[name].annotation), name)
    usual = {"timestep", "encoder_hidden_states", "pooled_projections", "txt_ids", "img_ids", "img_shapes", main}
    wanted = names.keys() & (required | usual | (_OPTIONAL if optional else set()))
    return {name: known[name] for name in known if name in wanted}


def _by_annotation(annotation: str, name: str) -> Any:
    """A value for an input of an unknown name."""
    if "Tensor" not in annotation:
        return 4 if "int" in annotation else 1.0 if "float" in annotation else False if "bool" in annotation else None
    if name.endswith("mask"):
        return torch.ones(BATCH, _TOKENS, dtype=torch.bool)
    if name.endswith(("ids", "indices", "indexes", "tags", "type")):
        return torch.zeros(BATCH, _TOKENS, dtype=torch.long)
    return torch.randn(BATCH, _TOKENS, _FIRST_WIDTHS["text"])


_OPTIONAL = {
    "class_labels",
    "controlnet_cond",
    "encoder_hidden_states_t5",
    "encoder_hidden_states_mask",
    "encoder_attention_mask",
    "encoder_hidden_states_2",
    "encoder_attention_mask_2",
    "encoder_hidden_states_llama3",
    "added_cond_kwargs",
    "img_sizes",
    "image_embeds",
    "text_embedding_mask",
    "text_embedding_mask_t5",
    "image_meta_size",
    "style",
    "image_rotary_emb",
    "mask",
    "global_hidden_states",
    "rotary_embedding",
    "height",
    "width",
    "num_frames",
    "condition_mask",
    "padding_mask",
    "fps",
    "guidance",
    "text_encoder_layers",
    "pose_hidden_states",
    "control_hidden_states",
    "clip_text",
    "image_embeddings",
    "timesteps",
    "pooled_embeds",
}
"""Inputs that some models need although their forwards have a default for them."""


def _random(shape: tuple[int, ...], channels: int) -> torch.Tensor:
    return torch.randn(BATCH, *(channels if size == _CHANNELS else size for size in shape))


def _known(config: dict[str, Any], shape: tuple[int, ...], widths: dict[str, int]) -> dict[str, Any]:
    """A value for each name that some forward takes."""
    text, second = torch.randn(BATCH, _TOKENS, widths["text"]), torch.randn(BATCH, _TOKENS, widths["text_2"])
    alike = _random(shape, widths["second"])
    space = [size for size in shape if size != _CHANNELS]
    frames, height, width = (1, 1, *space)[-3:] if shape != (16, _CHANNELS) else (1, 4, 4)
    head = int(config.get("attention_head_dim") or 16)
    rotary = (torch.ones(frames * height * width // 4, head), torch.zeros(frames * height * width // 4, head))
    numbers = torch.ones(BATCH, _TOKENS, dtype=torch.long)
    steps = torch.tensor([3, 7])
    ones, steps = (numbers, steps) if widths["masks"] == _OF_NUMBERS else (numbers.float(), steps / 10)
    if widths["times"] == _OF_FRAMES:
        steps = steps[:, None].expand(-1, frames).contiguous()
    pairs = torch.tensor([[64.0, 64.0]] * BATCH)
    axes = next((len(config[name]) for name in _AXES if isinstance(config.get(name), (list, tuple))), 3)
    return {
        "timestep": steps,
        "timesteps": steps,
        "t": torch.tensor([0.3, 0.7]),
        "timestep_r": steps,
        "r_timestep": steps,
        "timestep_ratio": torch.tensor([0.3, 0.7]),
        "num_frames": frames,
        "height": height,
        "width": width,
        "fps": torch.tensor([8, 8]),
        "position_ids": torch.zeros(16 + _TOKENS, 3),
        "encoder_hidden_states": text,
        "encoder_hidden_states_t5": second,
        "encoder_hidden_states_2": second,
        "encoder_attention_mask_2": ones,
        "encoder_hidden_states_llama3": [text] * 2,
        "img_sizes": [(height, width)] * BATCH,
        "added_cond_kwargs": {
            "text_embeds": torch.randn(BATCH, widths["pooled"]),
            "time_ids": torch.ones(BATCH, 6),
            "resolution": None,
            "aspect_ratio": None,
        },
        "control_type": torch.ones(BATCH, 6),
        "control_type_idx": [0],
        "video_rotary_emb": rotary,
        "timestep_indices": torch.zeros(BATCH, 16, dtype=torch.long),
        "encoder_hidden_states_mask": numbers,
        "encoder_attention_mask": ones,
        "encoder_mask": ones,
        "mask": ones,
        "text_embedding_mask": ones,
        "text_embedding_mask_t5": ones,
        "text_bth": text,
        "text_lens": torch.tensor([_TOKENS] * BATCH),
        "text_encoder_layers": [text] * int(config.get("num_layers") or 0),
        "pooled_projections": torch.randn(BATCH, widths["pooled"]),
        "pooled_embeds": torch.randn(BATCH, widths["pooled"]),
        "pooled_text_emb": torch.randn(BATCH, widths["pooled"]),
        "proj_embedding": torch.randn(BATCH, widths["pooled"]),
        "clip_text_pooled": torch.randn(BATCH, 1, widths["pooled"]),
        "clip_text": torch.randn(BATCH, _TOKENS, widths["text"]),
        "image_embeds": torch.randn(BATCH, 4, widths["image"]),
        "image_embeddings": torch.randn(BATCH, widths["image"]),
        "guidance": torch.ones(BATCH),
        "txt_ids": torch.zeros(_TOKENS, axes),
        "img_ids": torch.zeros(16, axes),
        "img_shapes": [[(1, 4, 4)]] * BATCH,
        "class_labels": torch.tensor([1, 2]),
        "conditioning": torch.randn(BATCH, 3, 128, 128),
        "controlnet_cond": torch.randn(BATCH, 3, 8 * height, 8 * width)
        if "conditioning_embedding_out_channels" in config
        else alike,
        "context_latents": alike,
        "control_hidden_states": alike,
        "pose_hidden_states": alike,
        "image_latents": alike,
        "original_size": pairs,
        "target_size": pairs,
        "crop_coords": torch.zeros(BATCH, 2),
        "added_time_ids": torch.ones(BATCH, 3),
        "image_meta_size": torch.ones(BATCH, 6),
        "micro_conds": torch.ones(BATCH, 5),
        "style": torch.zeros(BATCH, dtype=torch.long),
        "image_rotary_emb": rotary,
        "rotary_embedding": None,
        "global_hidden_states": torch.randn(BATCH, 1, widths["pooled"]),
        "condition_mask": torch.ones(BATCH, 1, frames, height, width),
        "padding_mask": torch.ones(1, 1, height, width),
        "cap_feats": [torch.randn(_TOKENS, widths["text"]) for _ in range(BATCH)],
        "input_ids": torch.randint(0, 30, (BATCH, 8, 8)),
        "segment_ids": torch.zeros(BATCH, 16 + _TOKENS, dtype=torch.long),
        "audio_hidden_states": torch.randn(BATCH, 16, widths["second"]),
        "audio_encoder_hidden_states": second,
        "controls_latents": alike,
        "indicator": torch.zeros(BATCH, 16 + _TOKENS, dtype=torch.long),
        "img_mask": torch.ones(BATCH, 16, dtype=torch.long),
        "chunk_partition": [2, 2],
        "indices_latents": torch.arange(frames),
        "source_hidden_states": text,
        "target_input_ids": torch.randint(0, 30, (BATCH, _TOKENS)),
        "prior_token_id": torch.randint(0, 30, (BATCH, 16)),
        "prior_token_drop": torch.zeros(BATCH, 16, dtype=torch.bool),
        "conditioning_scale": 1.0,
        "visual_rope_pos": [torch.arange(n) for n in (frames, height // 2, width // 2)],
        "text_rope_pos": torch.arange(_TOKENS),
    }
