"""The architectures of MONAI: its networks, from the arguments that their constructors need, on small volumes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import monai.networks.nets as nets
import torch
from torch import nn

from benchmarks.zoo.architectures import Architecture, Candidate, in_words

_SIDE = 32
_TOKENS = 12
_MOST_PARAMETERS = 60_000_000
_KNOWN: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 2,
    "num_classes": 2,
    "channels": (8, 16, 32),
    "strides": (2, 2),
    "label_nc": 3,
    "hidden_channels": (16, 16),
    "encode_channels": (16, 8),
    "decode_channels": (8, 16),
    "num_channel_initial": 8,
    "depth": 2,
    "extract_levels": (0, 1, 2),
    "image_size": (_SIDE, _SIDE),
    "unet_out_channels": 16,
    "final_conv_channels": (16, 16),
    "dim": 8,
    "in_planes": 8,
    "planes": 8,
    "num_language_layers": 2,
    "num_vision_layers": 2,
    "num_mixed_layers": 2,
    "drop_out": 0.1,
    "kernel_size": 3,
    "up_kernel_size": 3,
    "img_size": (_SIDE, _SIDE),
    "input_image_size": (_SIDE, _SIDE),
    "patch_size": (8, 8),
    "hidden_size": 48,
    "mlp_dim": 96,
    "num_heads": 4,
    "num_layers": 2,
    "feature_size": 12,
    "in_shape": (1, _SIDE, _SIDE),
    "input_shape": (1, _SIDE, _SIDE),
    "latent_shape": (8, 4, 4),
    "latent_size": 8,
    "start_shape": (8, 4, 4),
    "out_shape": (2,),
    "depths": (1, 1, 1, 1),
    "features": (8, 8, 16, 16, 32, 8),
    "init_filters": 8,
    "norm_num_groups": 8,
    "classes": 2,
    "num_filters": 8,
    "num_channels": (16, 16, 32),
    "width_ratio": 0.5,
    "encoder_only": False,
    "model_name": "efficientnet-b0",
    "backbone": "efficientnet-b0",
    "pretrained": False,
}
_SHRUNK = {
    "features",
    "init_filters",
    "feature_size",
    "depths",
    "pretrained",
    "hidden_size",
    "mlp_dim",
    "num_layers",
    "num_heads",
}
"""Arguments whose defaults are too large, or download weights."""

_SENET = {"layers": (1, 1, 1, 1), "spatial_dims": 2, "in_channels": 3}
_BERT = {
    "hidden_size": 48,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "chunk_size_feed_forward": 0,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}
_AUTOENCODER = {"num_res_blocks": 1, "channels": (16, 32), "attention_levels": (False, True), "norm_num_groups": 8}
_UNET = {**_AUTOENCODER, "num_head_channels": 8}
_OF_CLASS: dict[str, dict[str, Any]] = {
    "AutoEncoder": {"strides": (2, 2, 2)},
    "VarAutoEncoder": {"strides": (2, 2, 2)},
    "PatchDiscriminator": {"channels": 8, "num_layers_d": 2},
    "MultiScalePatchDiscriminator": {"channels": 8, "num_d": 2, "num_layers_d": 2, "minimum_size_im": _SIDE},
    "DiffusionModelUNet": _UNET,
    "ControlNet": {**_UNET, "conditioning_embedding_in_channels": 1, "conditioning_embedding_num_channels": (16,)},
    "SPADEDiffusionModelUNet": _UNET,
    "SPADEAutoencoderKL": _AUTOENCODER,
    "SPADENet": {"channels": [8, 16], "is_vae": False, "input_shape": (_SIDE, _SIDE)},
    "DecoderOnlyTransformer": {
        "num_tokens": 100,
        "max_seq_len": 64,
        "attn_layers_dim": 32,
        "attn_layers_depth": 2,
        "attn_layers_heads": 4,
    },
    "EfficientNet": {"blocks_args_str": ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25"], "in_channels": 1},
    "MILModel": {"pretrained": False},
    "NaViT": {"patch_size": 8, "num_layers": 2, "num_heads": 4},
    "ResNet": {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 16, 32, 64], "n_input_channels": 1},
    "ResNetBottleneck": {"planes": 2},
    "TorchVisionFCModel": {"pool": ("avg", {"kernel_size": 1, "stride": 1})},
    "ResNetEncoder": {"model_name": "resnet10"},
    "ResNetFeatures": {"model_name": "resnet10"},
    "SENet": {"block": "se_bottleneck", "layers": (1, 1, 1, 1), "groups": 1, "reduction": 16},
    "SEResNet50": _SENET,
    "SEResNet101": _SENET,
    "SEResNet152": _SENET,
    "SEResNext50": _SENET,
    "SEResNext101": _SENET,
    "SENet154": {**_SENET, "inplanes": 32, "groups": 8},
    "DenseNet264": {"block_config": (1, 1, 1, 1)},
    "ViTAutoEnc": {"patch_size": (4, 4), "num_layers": 2},
    "HyenaNDUNETR": {"hyena_stages": (True, True, False, False)},
    "MultiModal": {"bert_config": _BERT},
    "BertAttention": {"config": SimpleNamespace(**_BERT)},
    "BertMixedLayer": {"config": SimpleNamespace(**_BERT)},
    "BertOutput": {"config": SimpleNamespace(**_BERT)},
    "FullyConnectedNet": {"in_channels": 8},
    "VarFullyConnectedNet": {"in_channels": 8},
    "SwinUNETR": {"num_heads": (2, 2, 2, 2)},
    "VoxelMorphUNet": {"in_channels": 2, "channels": (8, 16)},
}
"""Arguments of single networks; an option that a network does not take is left out."""

_BASES = {"BertPreTrainedModel", "DiNTS", "TopologyConstruction", "TopologyInstance", "TopologySearch", "NetAdapter", "VISTA3D"}
"""Classes that are parts of others, or that wrap a network that is given."""

_PICTURES = {"Transchex": (1, _SIDE, _SIDE), "MultiModal": (_TOKENS, 48)}


def architectures() -> list[Architecture]:
    """One for each network in ``monai.networks.nets``."""
    classes = {name: getattr(nets, name) for name in dir(nets)}
    modules = {
        value: name
        for name, value in classes.items()
        if isinstance(value, type) and issubclass(value, nn.Module) and "forward" in dir(value) and name not in _BASES
    }
    return [Architecture(name, partial(_candidates, network)) for network, name in modules.items()]


def _candidates(network: type[nn.Module]) -> Iterator[Candidate | str]:
    parameters = inspect.signature(network.__init__).parameters
    needed = {p.name for p in parameters.values() if p.default is p.empty} | _SHRUNK
    for dimensions in (2, 3):
        options = {name: value for name, value in _KNOWN.items() if name in needed and name in parameters}
        options |= _OF_CLASS.get(network.__name__, {})
        for name in ("spatial_dims", "dimensions"):
            if name in parameters:
                options[name] = dimensions
        for name in ("img_size", "input_image_size", "image_size", "patch_size", "in_shape", "input_shape"):
            if isinstance(options.get(name), tuple):
                options[name] = (*options[name], options[name][-1])[: dimensions + (name == "in_shape")]
        if network.__name__ == "DynUNet":
            options |= {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
        try:
            torch.manual_seed(0)
            model = network(**options).train()
        except Exception as error:
            yield in_words(error)
            continue
        if sum(parameter.numel() for parameter in model.parameters()) > _MOST_PARAMETERS:
            yield "too many parameters at tiny size"
            continue
        yield from (Candidate(model, (), inputs) for inputs in _inputs(model, dimensions))


def _inputs(model: nn.Module, dimensions: int) -> Iterator[dict[str, Any]]:
    """Volumes, or what else the forward asks for by name."""
    parameters = inspect.signature(model.forward).parameters
    required = [name for name, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    main, *others = required
    words = torch.randint(0, 100, (2, _TOKENS))
    if main == "batched_images":
        yield {main: [[torch.randn(1, *[_SIDE] * dimensions)] for _ in range(2)]}
        return
    if main == "input_ids" or type(model).__name__ == "DecoderOnlyTransformer":
        pictures = {"vision_feats": torch.randn(2, *_PICTURES[type(model).__name__])} if "vision_feats" in parameters else {}
        kinds = {"token_type_ids": torch.zeros_like(words)} if "token_type_ids" in parameters else {}
        yield {main: words, **kinds, **pictures}
        return
    for channels in (1, 2, 3, 8):
        for side in (_SIDE, 2 * _SIDE, 4 * _SIDE):
            space = [side] * dimensions
            volume = torch.randn(2, channels, *space)
            known = {
                "timesteps": torch.tensor([3, 7]),
                "controlnet_cond": torch.randn(2, 1, *space),
                "seg": torch.rand(2, 3, *space),
                "fixed": torch.randn(2, channels, *space),
            }
            yield {main: known.get(main, volume), **{name: known[name] for name in others if name in known}}
    for width in (8, 48):
        rows = torch.randn(2, _TOKENS, width)
        yield {main: rows, **dict.fromkeys(others, rows)}
        yield {main: torch.randn(2, width), **dict.fromkeys(others, rows)}
        yield {main: torch.randn(2, 4, *[8] * (dimensions - 1), width)}
    yield {main: torch.randn(2, 4, 3, 64, 64)}  # pictures in bags
    for shape in ((8,), (8, 4, 4), (3, 256, 256)):
        yield {main: torch.randn(2, *shape)}
