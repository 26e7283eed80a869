"""The architectures of MONAI: its networks, from the arguments that their constructors need, on small volumes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import monai.networks.nets as nets
import torch
from torch import nn

from benchmarks.zoo.architectures import Architecture, Candidate, in_words

_SIDE = 32
_MOST_PARAMETERS = 30_000_000
_KNOWN: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 2,
    "num_classes": 2,
    "channels": (8, 16, 32),
    "strides": (2, 2),
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
_SHRUNK = {"features", "init_filters", "feature_size", "depths", "pretrained"}
"""Arguments whose defaults are too large, or download weights."""


def architectures() -> list[Architecture]:
    """One for each network in ``monai.networks.nets``."""
    classes = {name: getattr(nets, name) for name in dir(nets)}
    modules = {value: name for name, value in classes.items() if isinstance(value, type) and issubclass(value, nn.Module)}
    return [Architecture(name, partial(_candidates, network)) for network, name in modules.items()]


def _candidates(network: type[nn.Module]) -> Iterator[Candidate | str]:
    parameters = inspect.signature(network.__init__).parameters
    needed = {p.name for p in parameters.values() if p.default is p.empty} | {
        "features",
        "init_filters",
        "feature_size",
        "depths",
    }
    for dimensions in (2, 3):
        options = {name: value for name, value in _KNOWN.items() if name in needed and name in parameters}
        for name in ("spatial_dims", "dimensions"):
            if name in parameters:
                options[name] = dimensions
        for name in ("img_size", "input_image_size", "patch_size", "in_shape"):
            if name in options:
                options[name] = (*options[name], options[name][-1])[: dimensions + (name == "in_shape")]
        for name in {"kernel_size", "strides", "upsample_kernel_size"} & needed & parameters.keys():
            if network.__name__ == "DynUNet":
                options[name] = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}[name]
        try:
            torch.manual_seed(0)
            model = network(**options).train()
        except Exception as error:
            yield in_words(error)
            continue
        if sum(parameter.numel() for parameter in model.parameters()) > _MOST_PARAMETERS:
            yield "too many parameters at tiny size"
            continue
        for channels in (1, 2, 3):
            for side in (_SIDE, 2 * _SIDE):
                yield Candidate(model, (torch.randn(2, channels, *[side] * dimensions),))
