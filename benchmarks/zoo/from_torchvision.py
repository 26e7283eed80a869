"""The architectures of torchvision: each of its models, without weights, on small pictures or clips."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torchvision import models

from benchmarks.zoo.architectures import Architecture, Candidate, in_words

_SIDE, _FRAMES = 64, 8
_BOXES = torch.tensor([[4.0, 4.0, 40.0, 40.0], [10.0, 8.0, 30.0, 50.0]])
_MOST_PARAMETERS = 100_000_000


def architectures() -> list[Architecture]:
    """One for each registered model; quantized ones are for inference."""
    return [Architecture(name, partial(_candidates, name)) for name in models.list_models() if "quantized" not in name]


def _candidates(name: str) -> Iterator[Candidate | str]:
    builder = models.get_model_builder(name)
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None
    if ".detection." in builder.__module__ and "ssd" not in name:  # which has one size
        options |= {"min_size": 2 * _SIDE, "max_size": 2 * _SIDE}
    if weights := _weights(builder):
        size = max(one.meta["num_params"] for one in weights)
        if size > _MOST_PARAMETERS:
            yield f"{size:,} parameters"
            return
    try:
        torch.manual_seed(0)
        model = models.get_model(name, **options).train()
    except Exception as error:
        yield in_words(error)
        return
    module = type(model).__module__
    if ".detection." in module:
        target = {"boxes": _BOXES, "labels": torch.tensor([1, 2]), "masks": torch.ones(2, 64, 64, dtype=torch.uint8)}
        target["keypoints"] = torch.ones(2, 17, 3)
        yield Candidate(model, ([torch.rand(3, 64, 64) for _ in range(2)], [dict(target) for _ in range(2)]))
    elif ".optical_flow." in module:
        yield Candidate(model, (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128)))
    elif ".video." in module:
        yield Candidate(model, (torch.randn(2, 3, _FRAMES, _SIDE, _SIDE),))
        yield Candidate(model, (torch.randn(1, 3, 2 * _FRAMES, 224, 224),))  # the one size of MViT
    else:
        for side in (_SIDE, 224, 299):
            yield Candidate(model, (torch.randn(2, 3, side, side),))


def _weights(builder: Any) -> list[Any]:
    """The weights that the library has for a model, which tell its size without building it."""
    return list(inspect.signature(builder).parameters["weights"].annotation.__args__[0])
