"""An architecture of a library: how to build it at tiny size with the inputs of one training step."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

LIBRARIES = {
    "transformers": "transformers",
    "timm": "timm",
    "torchvision": "torchvision",
    "diffusers": "diffusers",
    "pyg": "torch_geometric",
    "monai": "monai",
    "x_transformers": "x_transformers",
}
"""Each library and the package that holds it."""


class LibraryMissingError(Exception):
    """The library is not installed."""


class NotBuiltError(Exception):
    """No tiny form of the architecture is known that eager trains."""


class NotTrainableError(NotBuiltError):
    """The architecture has nothing to train, or needs a library that is not installed: no form of it would be trained."""


_NO_GRADIENT = "no output has a gradient"
_FOR_INFERENCE = re.compile(r"is not trainable|Training is not implemented|is not supported during training")
_LIBRARY_MISSING = re.compile("ImportError|ModuleNotFoundError")


@dataclass(frozen=True)
class Candidate:
    """A model in training mode and the inputs of one step; whether eager trains it is not known yet."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: what the library calls it.
        candidates: forms of it, the best first; one that cannot be built raises at ``next`` or is a string with the reason.
    """

    name: str
    candidates: Callable[[], Iterator[Candidate | str]]


def architectures(library: str) -> list[Architecture]:
    """All architectures of the installed ``library``, by name.

    Raises:
        LibraryMissingError: it is not installed.
    """
    try:
        importlib.import_module(LIBRARIES[library])
    except ImportError as error:
        raise LibraryMissingError(f"{library} is not installed ({error}): pip install {LIBRARIES[library]}") from error
    found: list[Architecture] = importlib.import_module(f"benchmarks.zoo.from_{library}").architectures()
    return sorted(found, key=lambda architecture: architecture.name)


def loss_of(output: Any) -> torch.Tensor:
    """The output's own loss; else the mean of the squares of all outputs that have a gradient.

    Raises:
        NotBuiltError: no output has a gradient.
    """
    own = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if isinstance(own, torch.Tensor) and own.requires_grad:
        return own.sum()
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if not leaves:
        raise NotBuiltError(_NO_GRADIENT)
    return torch.stack([leaf.float().pow(2).mean() for leaf in leaves]).sum()


def trained_by_eager(architecture: Architecture) -> Candidate:
    """The first candidate whose training step runs twice in eager, with a finite loss and some gradients.

    Raises:
        NotTrainableError: none, since a library is missing, or since forwards run whose outputs have no gradient.
        NotBuiltError: none else; the message has the reason of the first candidate.
    """
    reasons: list[str] = []
    candidates = architecture.candidates()
    while True:
        try:
            candidate = next(candidates)
        except StopIteration:
            lasting = [reason for reason in reasons if _lasts(reason)]
            if lasting:
                raise NotTrainableError(lasting[0]) from None
            raise NotBuiltError(reasons[0] if reasons else "nothing is known about its configuration") from None
        if isinstance(candidate, str):
            reasons.append(candidate)
            continue
        try:
            for seed in range(2):
                torch.manual_seed(seed)
                loss = loss_of(candidate.model(*candidate.args, **candidate.kwargs))
                loss.backward()
        except Exception as error:
            reasons.append(in_words(error))
            continue
        trained = any(parameter.grad is not None for parameter in candidate.model.parameters())
        if trained and bool(loss.isfinite()):
            candidate.model.zero_grad(set_to_none=True)
            return candidate
        reasons.append("no gradients" if not trained else "the loss is not finite")


def _lasts(reason: str) -> bool:
    """Whether no other form of the architecture would be trained either."""
    return bool(_LIBRARY_MISSING.match(reason) or _NO_GRADIENT in reason or _FOR_INFERENCE.search(reason))


def in_words(error: BaseException) -> str:
    """Class and message of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
