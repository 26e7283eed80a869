"""The inputs of one training step of a model of transformers, made from the names of its forward's parameters."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from benchmarks.zoo.architectures import NotTrainableError

BATCH = 4
_TOKENS = 48
_SAMPLES = 6400  # of a wave: 20 frames of wav2vec2
_MOST_FORMS = 8
_FIRST_WORD, _LAST_WORD = 3, 90

_GRIDS = {"image_grid_thw", "image_grid_hws", "grid_thw", "grid_hws"}
"""Names of the sizes of pictures that are given as one row of patches."""

_PARTS = (
    *("vision_config", "audio_config", "encoder_config", "encoder", "backbone_config", "text_config", "decoder"),
    *("decoder_config", "speech_config", "semantic_model_config", "acoustic_model_config"),
)

_OF_GAMES = {"states", "actions", "rewards", "returns_to_go", "timesteps"}
_OF_REGIONS = {"visual_feats", "visual_pos"}
_STATES = {"inputs_embeds", "hidden_states", "encoder_hidden_states", "query_embeds", "latents", "context_hidden_states"}
_ALWAYS = {*_OF_GAMES, *_OF_REGIONS, "flattened_patches"}
"""Inputs that their models need although their forwards have a default for them."""


def possible_inputs(model: PreTrainedModel, config: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """Forms of inputs that the model may take, the likeliest first; with labels before those without.

    Raises:
        LookupError: the forward needs something that nothing is known about.
    """
    parameters = inspect.signature(model.forward).parameters
    forms = _Forms(model, config, set(parameters))
    required = [
        name for name, p in parameters.items() if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    required += sorted(parameters.keys() & _ALWAYS)
    base = list(itertools.islice(_products(forms, required), _MOST_FORMS))
    for inputs in base:
        if labels := forms.labels(inputs):
            yield {**inputs, **labels}
    yield from base


def _products(forms: _Forms, required: list[str]) -> Iterator[dict[str, Any]]:
    """Each form of pictures with each of sounds, text and whatever else is required.

    Raises:
        LookupError: no form has all that is required.
    """
    found, unknown = 0, ""
    media = [
        {**pixels, **sound} for pixels, sound in itertools.product(list(forms.pixels()) or [{}], list(forms.sounds()) or [{}])
    ]
    if "input_ids" in forms.names and any(media):
        media = [*media[: _MOST_FORMS - 1], {}]  # a batch of text alone, where no picture or sound fits
    for inputs in media:
        inputs |= forms.text(inputs)
        more = {name: forms.other(name) for name in required if name not in inputs}
        unknown = next((name for name, value in more.items() if value is None), "")
        if not unknown:
            found += 1
            yield {**inputs, **more}
    if not found:
        raise LookupError(f"nothing is known about the input {unknown!r}")


class _Forms:
    def __init__(self, model: PreTrainedModel, config: PreTrainedConfig, names: set[str]) -> None:
        self.model, self.config, self.names = model, config, names
        self.task = type(model).__name__

    def find(self, *names: str, default: Any = None) -> Any:
        """The first value of one of ``names`` in the configuration or in a part of it."""
        configs = [self.config, *(getattr(self.config, part, None) for part in _PARTS)]
        for config in list(configs):
            configs += [getattr(config, part, None) for part in _PARTS if isinstance(config, PreTrainedConfig)]
        for name in names:
            for config in configs:
                if isinstance(config, PreTrainedConfig) and getattr(config, name, None) is not None:
                    return getattr(config, name)
        return default

    def pixels(self) -> Iterator[dict[str, Any]]:
        """Pictures: as rows of patches, one a sample, one clip a sample, several a sample."""
        channels = self.find("num_channels", "in_channels", "in_chans", default=3)
        channels = channels if isinstance(channels, int) else 3
        height, width = self._picture()
        name = next((name for name in ("pixel_values", "pixel_values_videos", "hidden_states") if name in self.names), None)
        if name is None or (name == "hidden_states" and not self.names & _GRIDS):
            return
        patch = self.find("patch_size", default=14)
        patch = patch[-1] if isinstance(patch, (list, tuple)) else patch
        if grids := self.names & _GRIDS:
            grid = next(iter(grids))
            depth = 1 if grid.endswith("hws") else self.find("temporal_patch_size", "patch_temporal", default=1)
            merge = self.find("spatial_merge_size", "merge_size", default=2)
            rows = 2 * (merge if isinstance(merge, int) else 2)
            sizes = torch.tensor([[rows, rows] if grid.endswith("hws") else [1, rows, rows]] * BATCH)
            yield {name: torch.randn(BATCH * rows * rows, channels * depth * patch * patch), grid: sizes}
            yield {name: torch.randn(BATCH * rows * rows, channels, patch, patch), grid: sizes}
            yield {name: torch.randn(BATCH, rows * rows, channels * depth * patch * patch), grid: sizes}
        if "spatial_shapes" in self.names:
            yield {
                name: torch.randn(BATCH, 16, channels * patch * patch),
                "spatial_shapes": torch.tensor([[4, 4]] * BATCH),
                "pixel_attention_mask": torch.ones(BATCH, 16, dtype=torch.long),
            }
        if "pixel_position_ids" in self.names:
            places = torch.cartesian_prod(torch.arange(4), torch.arange(4)).expand(BATCH, -1, -1)
            yield {name: torch.rand(BATCH, 16, channels * patch * patch), "pixel_position_ids": places}
        image = torch.randn(BATCH, channels, height, width)
        more = {"image_sizes": torch.tensor([[height, width]] * BATCH)} if "image_sizes" in self.names else {}
        more |= dict.fromkeys(self.names & {"high_res_pixel_values"}, image)
        frames = self.find("num_frames", "frames_per_clip", default=1)
        clips = [{name: image[:, None].expand(-1, n, -1, -1, -1).contiguous(), **more} for n in (frames, 3)]
        yield from [*clips, {name: image, **more}] if frames > 1 else [{name: image, **more}, *clips]

    def _picture(self) -> tuple[int, int]:
        """Height and width, which the configuration says or leaves free."""
        size = self.find("image_size", "img_size", default=128)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return (height, width) if isinstance(height, int) and isinstance(width, int) and height <= 256 else (128, 128)

    def sounds(self) -> Iterator[dict[str, Any]]:
        names = (
            *("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "input_dim", "input_feat_size"),
            "feature_projection_input_dim",
        )
        widths = [width for name in names if isinstance(width := self.find(name), int)]
        bins = widths[0] if widths else 80
        mel = next((name for name in ("input_features", "audio_mel") if name in self.names), None)
        if mel is not None:
            frames = 2 * self.find("max_source_positions", default=50)
            stacked = self.find("num_stacked_frames", default=4)
            wide = dict.fromkeys((bins, 80, 128, *widths, stacked * bins))
            for shape in (shape for width in wide for shape in ((BATCH, width, frames), (BATCH, frames, width))):
                features = torch.randn(shape)
                masks = {
                    name: torch.ones(BATCH, frames, dtype=torch.long)
                    for name in ("feature_attention_mask", "input_features_mask")
                    if name in self.names
                }
                if "audio_mel_mask" in self.names:  # of what is left out
                    masks["audio_mel_mask"] = torch.zeros(features.shape[:2], dtype=torch.bool)
                yield {mel: features, **masks}
                if masks:
                    yield {mel: features}
            yield {mel: torch.randn(BATCH, 1, frames, bins)}
        if "input_values" in self.names:
            frames = self.find("max_length", default=128)
            yield {"input_values": torch.randn(BATCH, _SAMPLES)}
            yield {"input_values": torch.randn(BATCH, 1, _SAMPLES)}
            yield {"input_values": torch.randn(BATCH, frames, bins)}
            yield {"input_values": torch.randn(BATCH, 60 * 96)}  # some take whole patches of samples
        elif "audio_values" in self.names:
            yield {"audio_values": torch.randn(BATCH, 1, _SAMPLES)}

    def text(self, media: dict[str, Any]) -> dict[str, Any]:
        if "input_ids" not in self.names:
            decoder = {"decoder_input_ids"} & self.names
            return {name: self._words() for name in decoder if "labels" not in self.names or "decoder_cache" in self.names}
        ids = self._words()
        for kind, key in (("image", "pixel_values"), ("audio", "input_features"), ("audio", "input_values")):
            token = self.find(f"{kind}_token_id", f"{kind}_token_index", "media_placeholder_token_id")
            if key in media and isinstance(token, int):
                ids = torch.cat([ids[:, :1], torch.full((BATCH, self._features(kind, media)), token), ids[:, 1:]], dim=1)
        inputs: dict[str, Any] = {"input_ids": ids}
        if "attention_mask" in self.names:
            inputs["attention_mask"] = torch.ones_like(ids)
        if "token_type_ids" in self.names and media and self.find("image_token_id", "image_token_index") is not None:
            inputs["token_type_ids"] = (ids == self.find("image_token_id", "image_token_index")).long()
        if "mm_token_type_ids" in self.names and media:
            inputs["mm_token_type_ids"] = (ids == self.find("image_token_id", "image_token_index")).long()
        if "image_attention_mask" in self.names and media.get("pixel_values", ids).dim() == 5:
            inputs["image_attention_mask"] = torch.ones(*ids.shape, media["pixel_values"].shape[1], dtype=torch.long)
        if "image_embeds_position_mask" in self.names and media:
            places = torch.zeros_like(ids)
            places[:, 1 : 1 + self.find("latent_query_num", default=1)] = 1
            inputs["image_embeds_position_mask"] = places
        if "bbox" in self.names:
            corners = torch.randint(0, 50, (*ids.shape, 2))
            inputs["bbox"] = torch.cat([corners, corners + 20], dim=-1)
        if "decoder_input_ids" in self.names and "labels" not in self.names:
            inputs["decoder_input_ids"] = self._words()
        return inputs

    def _features(self, kind: str, media: dict[str, Any]) -> int:
        """How many tokens the model makes of one image or sound; as many as it has queries, or 16, where it does not say."""
        unknown: int = self.find("num_query_tokens", default=16)
        owner = next((m for m in (self.model, getattr(self.model, "model", None)) if hasattr(m, f"get_{kind}_features")), None)
        if owner is None:
            return unknown
        get = getattr(owner, f"get_{kind}_features")
        known = inspect.signature(get).parameters
        given = {name: value for name, value in media.items() if name in known}
        try:
            with torch.no_grad():
                result = get(**given)
        except Exception:
            return unknown
        result = getattr(result, "pooler_output", result) if getattr(result, "pooler_output", None) is not None else result
        result = getattr(result, "last_hidden_state", result)
        parts = result if isinstance(result, (list, tuple)) else [result]
        return max(1, sum(math.prod(part.shape[:-1]) for part in parts if isinstance(part, torch.Tensor)) // BATCH)

    def _words(self) -> torch.Tensor:
        limit = self.find("vocab_size", default=_LAST_WORD)
        longest = self.find("max_position_embeddings", "max_text_len", default=_TOKENS)
        length = min(_TOKENS, longest) if isinstance(longest, int) and longest > 0 else _TOKENS  # XLNet says -1 for any
        return torch.randint(_FIRST_WORD, min(_LAST_WORD, limit if isinstance(limit, int) else _LAST_WORD), (BATCH, length))

    def labels(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the task is trained to give; {} where nothing is known of it."""
        classes = max(1, len(self.find("id2label", default={0: 0})))
        if {"start_positions", "end_positions"} <= self.names:
            return {"start_positions": torch.arange(BATCH), "end_positions": torch.arange(BATCH) + 2}
        if {"mask_labels", "class_labels"} <= self.names:
            masks = [(torch.rand(2, *self._picture()) > 0.5).float() for _ in range(BATCH)]
            return {"mask_labels": masks, "class_labels": [torch.tensor([0, 1 % classes]) for _ in range(BATCH)]}
        if "labels" not in self.names:
            return {}
        if "Detection" in self.task:
            boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.4, 0.2, 0.3]])
            return {"labels": [{"class_labels": torch.tensor([0, 1 % classes]), "boxes": boxes} for _ in range(BATCH)]}
        if "Segmentation" in self.task:
            return {"labels": torch.randint(0, classes, (BATCH, *self._picture()))}
        if any(word in self.task for word in ("SequenceClassification", "ImageClassification", "VideoClass", "AudioClass")):
            return {"labels": torch.randint(0, classes, (BATCH,))}
        if "CTC" in self.task:
            return {"labels": torch.randint(_FIRST_WORD, 20, (BATCH, 4))}
        return {"labels": inputs["input_ids"] if "input_ids" in inputs else self._words()}

    def other(self, name: str) -> Any:
        """A required input that is neither picture, sound nor usual text; None where nothing is known about it."""
        past = self.find("context_length", default=32) + max(self.find("lags_sequence", default=[0]))
        steps = past if name.startswith("past") else self.find("prediction_length", default=8)
        channels = self.find("num_input_channels")
        if name in _OF_GAMES:
            width = {"states": self.find("state_dim"), "actions": self.find("act_dim")}.get(name) or 1
            return torch.arange(8).expand(BATCH, -1) if name == "timesteps" else torch.randn(BATCH, 8, width)
        if name in _OF_REGIONS:
            return torch.rand(BATCH, 8, self.find("visual_feat_dim" if name == "visual_feats" else "visual_pos_dim"))
        if name in ("state", "action_embeds"):
            return torch.randn(BATCH, self.find("max_state_dim", default=32))
        if name == "flattened_patches":  # each after its row and column
            places = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).expand(BATCH, -1, -1)
            return torch.cat([places, torch.randn(BATCH, 16, self.find("patch_embed_hidden_size"))], dim=-1)
        if name == "merge_sizes":
            return torch.ones(BATCH, dtype=torch.long)
        if name == "inference_session":
            raise NotTrainableError("it is for inference: it takes an inference session")
        if name.endswith("_values"):
            return torch.randn(BATCH, steps) if channels is None else torch.randn(BATCH, steps, channels)
        if name.endswith("_observed_mask"):
            return torch.ones(BATCH, steps)
        if name.endswith("_time_features"):
            return torch.randn(BATCH, steps, self.find("num_time_features", default=0))
        if name in _STATES:
            return torch.randn(BATCH, _TOKENS, self.find("hidden_size", "d_model", default=64))
        if name in ("attention_mask", "decoder_attention_mask"):
            return torch.ones(BATCH, _TOKENS, dtype=torch.long)
        return self._words() if name.endswith("input_ids") else None
