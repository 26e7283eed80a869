"""What a forward that ends at a check has changed by then, and putting it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
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
        changing = [tensors[i].detach() for i in self.updated]
        contents = [_on_host(tensor) for tensor in changing]
        states = [_on_host(generator.get_state()) for generator in generators]

        def put_back() -> None:
            for tensor, content in zip(changing, contents, strict=True):
                tensor.copy_(_as_tensor(content, tensor))
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(torch.from_numpy(state))

        return put_back


def _on_host(tensor: torch.Tensor) -> np.ndarray:
    """The bytes of ``tensor`` in memory of the host that no budget counts."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().copy()


def _as_tensor(content: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(content).view(like.dtype).reshape(like.shape)
