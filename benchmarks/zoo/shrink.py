"""Rules that make a configuration tiny: by the name of each number, so that numbers that belong together stay consistent."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Scale:
    """How small; further tries change what some architectures need more of.

    Attributes:
        divisor: widths and numbers of heads are divided by it, and widths of a head kept, for a configuration whose numbers
            have to agree in ways that the rules do not know; 0 where each number has a limit of its own.
    """

    width: int = 64
    heads: int = 4
    layers: int = 2
    experts: int = 4
    image: int = 128
    divisor: int = 0

    @property
    def head(self) -> int:
        """The width of one head."""
        return self.width // self.heads


SCALES = (
    *(Scale(), Scale(layers=4), Scale(width=96, image=64)),
    *(Scale(divisor=4, image=256), Scale(divisor=16, image=256), Scale(divisor=1, image=256)),
)

VOCABULARY = 160

_Limit = int | Callable[[Scale], int] | None

_RULES: tuple[tuple[_Limit, str], ...] = (
    (VOCABULARY, r".*vocab_size(_per_layer_input)?"),
    (4, r"upsample_groups|num_conv_pos_embedding_groups|.*num_groups|num_frames|mm_tokens_per_image"),
    (None, r".*(kernel_size|kernel|stride|groups|_type|coefficient|cost|_rate|num_channels|in_chans)"),
    (16, r"num_conv_pos_embeddings|(?!type).*patch_sizes?"),
    (0, r"num_kv_shared_layers"),
    (4, r"num_filters"),
    # Heads of attention and of state spaces; those of keys are fewer.
    (lambda scale: 2 * scale.width, r"mamba_d_ssm"),
    (lambda scale: 2 * scale.heads, r"mamba_(n|num)_heads"),
    (2, r".*(num_key_value_heads|n_head_kv|num_kv_heads|n_kv_heads?|multi_query_group_num)"),
    (lambda scale: scale.heads, r".*(n_heads?|num_heads|_heads)"),
    # Layers, and what is counted in layers.
    (lambda scale: scale.layers, r".*(_layers?|n_layers?|depths?|num_blocks)"),
    (1, r"first_k_dense_replace|num_dense_layers|(num_)?n?_?shared_experts|.*_layer_period"),
    (0, r".*_layer_offset"),
    # Widths of a head.
    (lambda scale: scale.head // 2, r"rotary_dim"),
    (lambda scale: scale.head, r".*(head_dim|d_kv|attention_head_size|d_head|head_size|key_dim|mamba_headdim|rank)"),
    # Experts.
    (2, r".*(experts_per_tok|top_?k|topk_group|n_group|moe_k)"),
    (lambda scale: scale.experts, r".*experts"),
    (lambda scale: scale.width // 2, r"moe_.*(intermediate_size|dim)"),
    # Other widths.
    (lambda scale: scale.width // 2, r"num_pos_feats"),
    (lambda scale: scale.width // 6, r"coordinate_size|shape_size"),
    (lambda scale: 2 * scale.width, r".*(intermediate_size|ffn_dim|d_ff|feed_?forward(_size|_dim)?|ffn_hidden_size)"),
    (lambda scale: 2 * scale.width, r".*(inner_dim|d_inner|mlp_dim)"),
    # Lengths of inputs, and of what is counted beside them.
    (lambda scale: scale.image, r".*(image_size|img_size|sample_size|train_size)"),
    (50, r"max_source_positions|nb_max_frames"),
    (8, r".*(sliding_window.*|local_attention|attention_window|attention_chunk_size|chunk_size|block_size|d_state|state_size)"),
    (128, r".*(position_embeddings|n_positions|n_ctx|context_length|max_seq.*|max_target_positions|max_length)"),
    (128, r".*(text_len|seq_len.*)"),
    (10, r"num_queries|num_query_tokens|num_denoising|latent_query_num|.*num_latents"),
    (32, r"train_num_points|codebook_size|num_codevectors_per_group|num_centroids"),
    (
        lambda scale: scale.width,
        r".*(hidden_sizes?|hidden_dim|hid_dim|d_model|embed_dims?|emb_dim|embedding_size|embedding_dim)",
    ),
    (lambda scale: scale.width, r".*(n_embd|dim|width|_?channels?|channels?_size|proj_size|projection_size|filters|units)"),
    (lambda scale: scale.width, r".*(d_latents|feature_size|hidden_dimension)"),
)
"""For each family of names the largest number of a tiny configuration, None where it stays; the first that fits holds."""

_INDICES = re.compile(r".*(indexes|indices|deepstack.*|out_features|hook_ids|feature_layers?)")
_FEWEST_LAYERS = 2
_TOKENS = re.compile(r".*token_(id|index)")
_FIRST_SPECIAL = 100
_KNOWN_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


class Shrinker:
    """Shrinks the numbers of one configuration and of those inside it; special tokens get the same number everywhere."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._tokens = dict(_KNOWN_TOKENS)

    def __call__(self, name: str, value: Any) -> Any:
        """The tiny value of the entry ``name``."""
        if isinstance(value, bool):
            return value
        if _TOKENS.fullmatch(name) or name in _KNOWN_TOKENS:
            return self._token(name, value)
        if isinstance(value, int):
            return self._number(name, value)
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            return type(value)(self._numbers(name, list(value)))
        if name.endswith("pinpoints"):  # two tiles and the whole picture
            return [[self.scale.image, 2 * self.scale.image]]
        if isinstance(value, dict) and "mrope_section" in value:
            pairs = int(self.scale.head * value.get("partial_rotary_factor", 1.0)) // 2
            return {**value, "mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]}
        return value

    def of_layers(self, values: Sequence[Any], layers: int) -> Sequence[Any]:
        """The values of so many layers, the first ones; some of each kind, where there are more layers than the fewest."""
        if layers <= _FEWEST_LAYERS or not all(isinstance(value, str) for value in values):
            return values[:layers]
        chosen = sorted({*[values.index(kind) for kind in dict.fromkeys(values)][:layers]})
        rest = [i for i in range(len(values)) if i not in chosen]
        return [values[i] for i in sorted(chosen + rest[: layers - len(chosen)])]

    def _number(self, name: str, value: int) -> int:
        limit = next((limit for limit, pattern in _RULES if re.fullmatch(pattern, name)), None)
        if limit is None:
            return value
        if isinstance(limit, int):
            return min(value, limit)
        tiny = limit(self.scale)
        if self.scale.divisor:
            wider = replace(self.scale, width=2 * self.scale.width)
            if limit(replace(wider, heads=2 * wider.heads)) > tiny:
                return max(1, value // self.scale.divisor)
            if limit(wider) > tiny:  # the width of a head
                return value
        return min(value, tiny)

    def _numbers(self, name: str, values: list[int]) -> list[int]:
        if _INDICES.fullmatch(name):
            return [min(i, value, self.scale.layers - 1) for i, value in enumerate(values)]
        if re.fullmatch(r".*layers", name):  # numbers of layers to look at, not how many
            return [max(-self.scale.layers, value) for value in values]
        if name == "depths":
            return [1] * len(values)
        if self.scale.divisor:
            return [self._number(name, value) for value in values]
        if name.endswith("heads"):
            return [min(value, 2) for value in values]
        if name == "decoder_in_channels":  # the width of the encoder, once for each level
            return [min(value, self.scale.width) for value in values]
        return [self._of_many(name, value) for value in values]

    def _of_many(self, name: str, value: int) -> int:
        """A number out of a list: widths are divided, so that those of one part of the model go on to fit those of the next."""
        tiny = self._number(name, value)
        return 8 * max(1, round(value / 64)) if tiny == self.scale.width else tiny

    def _token(self, name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._token(name, value[0])] if value else value
        if not isinstance(value, int) or (0 <= value < _FIRST_SPECIAL and name in _KNOWN_TOKENS):
            return value
        return self._tokens.setdefault(name.replace("_index", "_id"), _FIRST_SPECIAL + len(self._tokens))
