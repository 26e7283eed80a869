"""Random draws: from a generator of the user's own, and repeated in a recomputation.

Before a draw that is repeated later, its generator's state is saved, and the repetition draws from this state. Only first draws
advance the stream, as in eager.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class DrawnFrom:
    """The generator that a call draws from.

    Attributes:
        device: the device on which it draws.
        own: the generator that is passed to it; None for the default one of the device.
    """

    device: torch.device
    own: torch.Generator | None = None

    @classmethod
    def of(cls, node: fx.Node) -> DrawnFrom:
        """That of a node of the joint graph that draws random numbers."""
        tensors = [leaf for leaf in pytree.tree_leaves(node.meta["val"]) if isinstance(leaf, torch.Tensor)]
        return cls(tensors[0].device, node.meta.get("generator"))

    def generator(self) -> torch.Generator:
        """The generator."""
        return generator_of(self.device) if self.own is None else self.own

    def drawing(self, operator: Callable[..., Any]) -> Callable[..., Any]:
        """``operator``, with the generator passed to it where it is not the default one."""
        own = self.own
        if own is None:
            return operator
        position = _position_of_generator(operator)

        def draw(*args: Any, **kwargs: Any) -> Any:
            if position is not None and position < len(args):
                return operator(*args[:position], own, *args[position + 1 :], **kwargs)
            return operator(*args, **{**kwargs, "generator": own})

        return _named(draw, "draw", operator)

    def state(self) -> Callable[[], torch.Tensor]:
        """A function that returns the generator's state: a byte tensor on the CPU, read without waiting for the device."""

        def generator_state() -> torch.Tensor:
            return self.generator().get_state()

        return generator_state

    def repeating(self, operator: Callable[..., Any]) -> Callable[..., Any]:
        """A function ``repeat(state, *args)`` that runs ``operator(*args)`` on a generator in ``state``.

        Afterwards the generator is as it was before.
        """
        draw = self.drawing(operator)

        def repeat(state: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            generator = self.generator()
            current = generator.get_state()
            generator.set_state(state)
            try:
                return draw(*args, **kwargs)
            finally:
                generator.set_state(current)

        return _named(repeat, "repeat", operator)


def _named(function: Callable[..., Any], verb: str, operator: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with a name of its own: torch.fx calls it by its name in the generated code."""
    function.__name__ = function.__qualname__ = f"{verb}_{getattr(operator, '__name__', 'draw').replace('.', '_')}"
    return function


def _position_of_generator(operator: Callable[..., Any]) -> int | None:
    if not isinstance(operator, torch._ops.OpOverload):
        return None
    return next((k for k, declared in enumerate(operator._schema.arguments) if declared.name == "generator"), None)


def generator_of(device: torch.device) -> torch.Generator:
    """The generator from which operators on ``device`` draw.

    Raises:
        RuntimeError: PyTorch gives no access to it.
    """
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device)
    generators = getattr(module, "default_generators", None)
    if not generators:
        raise RuntimeError(
            f"random operators on {device.type!r} cannot be recomputed: torch.{device.type} has no default_generators"
        )
    return generators[module.current_device() if device.index is None else device.index]
