"""Which inputs of a call are one tensor.

It is part of the form of a call: a captured step reads such a tensor in one place only, and the model may ask for it
(``query is key``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch


def first_places(inputs: Sequence[torch.Tensor], state: Iterable[tuple[int, torch.Tensor]]) -> tuple[int, ...]:
    """For each input, where the same tensor comes first.

    That is its index among the inputs, or -1 - k where ``state``, pairs of a number and a tensor, has the tensor with number k.
    """
    identities = set(map(id, inputs))
    first = {id(tensor): -1 - k for k, tensor in state if id(tensor) in identities}
    return tuple(first.setdefault(id(tensor), k) for k, tensor in enumerate(inputs))
