"""The architectures of timm: the smallest-sounding model of each of its modules, on small pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import timm
import torch

from benchmarks.zoo.architectures import Architecture, Candidate, in_words

_SMALL = ("test", "atto", "femto", "pico", "nano", "_xxs", "_xs", "tiny", "_s", "mini", "small", "18", "_0", "b0")
_MOST_PARAMETERS = 100_000_000
_SIDES = (64, 128)


def architectures() -> list[Architecture]:
    """One for each module of models."""
    return [Architecture(module, partial(_candidates, module)) for module in timm.list_modules()]


def _candidates(module: str) -> Iterator[Candidate | str]:
    names = sorted(timm.list_models(module=module), key=lambda name: (_rank(name), len(name)))
    for name in names[:2]:
        for options in (
            {"img_size": _SIDES[0]},
            {},
        ):  # without: any size, or that of the weights
            try:
                with torch.device("meta"):
                    size = sum(p.numel() for p in timm.create_model(name, num_classes=10, **options).parameters())
            except Exception as error:
                if options:
                    yield in_words(error)
                    continue
                size = 0  # it cannot be built on paper
            if size > _MOST_PARAMETERS:
                yield f"{size:,} parameters"
                continue
            try:
                torch.manual_seed(0)
                model = timm.create_model(name, num_classes=10, **options).train()
            except Exception as error:
                yield in_words(error)
                continue
            channels, _, default = model.default_cfg["input_size"]
            for side in _SIDES[:1] if options else (*_SIDES, default):
                yield Candidate(model, (torch.randn(2, channels, side, side),))


def _rank(name: str) -> int:
    return next((k for k, word in enumerate(_SMALL) if word in name), len(_SMALL))
