"""A case of the sweep: how to build one small model with its inputs, and the loss that each case trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


class NotTrainableError(Exception):
    """Eager itself cannot build or train the case, so that there is nothing to compare."""


@dataclass(frozen=True)
class Built:
    """A model and how it is called.

    Attributes:
        model: returns a dictionary with the entry "loss".
        args: positional inputs of its forward.
        kwargs: named inputs.
        state: Python values of the model that its forward may change; compared after every step.
        pokes: whether zeros and ties may be written into its parameters before the last step.
    """

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    state: Callable[[nn.Module], Any] = lambda _: None
    pokes: bool = False


@dataclass(frozen=True)
class Case:
    """One model to try.

    Attributes:
        part: the part of the sweep.
        name: what it is; unique within the part.
        build: makes the model and its inputs; equal at every call.
    """

    part: str
    name: str
    build: Callable[[], Built]


def scalar_loss(results: Iterable[Any], sign: float = 1.0) -> torch.Tensor:
    """A loss that sends a zero to about half of the elements, and another gradient to each of the rest.

    Formulas of gradients differ on zeros, on their signs and on uneven gradients, so a plain sum would hide differences.

    Raises:
        NotTrainableError: no result has a gradient.
    """
    terms: list[torch.Tensor] = []
    for result in results:
        if not isinstance(result, torch.Tensor) or not result.requires_grad or result.layout != torch.strided:
            continue
        parts = (result.real, result.imag) if result.is_complex() else (result,)
        terms += [part.sin().relu().sum().to(torch.float32) for part in parts]
    if not terms:
        raise NotTrainableError("no result has a gradient")
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total * sign
