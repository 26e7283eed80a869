"""What a forward that ends at a check has changed by then, and putting it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Undo:
    """What a forward with checks changes besides computing its outputs.

    Attributes:
        updated: which of parameters, buffers and inputs it writes to, by their places among all of these.
        devices: those from whose default random generators it draws.
        own: the other random generators from which it draws.
    """

    updated: tuple[int, ...]
    devices: tuple[torch.device, ...]
    own: tuple[torch.Generator, ...]

    def kept(self, tensors: Sequence[torch.Tensor], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        """Keep what a forward on ``tensors`` that draws from ``generators`` will change; gives a function that puts it back."""
        changing = [tensors[i] for i in self.updated]
        contents = [tensor.detach().clone() for tensor in changing]
        states = [generator.get_state() for generator in generators]

        def put_back() -> None:
            with torch.no_grad():
                for tensor, content in zip(changing, contents, strict=True):
                    tensor.copy_(content)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)

        return put_back
