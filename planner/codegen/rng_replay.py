"""Random draws that are repeated: the generator's state before the first draw is kept, and a repetition draws from it.

The global stream moves on only at first draws, as it does in eager.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def generator_of(device: torch.device) -> torch.Generator:
    """The generator that operators on ``device`` draw from."""
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device)
    generators = getattr(module, "default_generators", None)
    if not generators:
        raise RuntimeError(f"random operators on {device.type!r} cannot be repeated: it has no generator that can be reached")
    return generators[module.current_device() if device.index is None else device.index]


def generator_state(device: torch.device) -> torch.Tensor:
    """The state of the device's generator: bytes on the CPU, read without waiting for the device."""
    return generator_of(device).get_state()


def repeating(operator: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """``repeat(state, *args)``: what ``operator(*args)`` gives when the generator is in ``state``; the generator is left as
    it was.
    """

    def repeat(state: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        generator = generator_of(device)
        current = generator.get_state()
        generator.set_state(state)
        try:
            return operator(*args, **kwargs)
        finally:
            generator.set_state(current)

    # A torch.fx graph names the functions it calls.
    repeat.__name__ = repeat.__qualname__ = f"repeat_{getattr(operator, '__name__', 'draw').replace('.', '_')}"
    return repeat
