"""When what eager code makes is let go of: not at its last use, but when the last variable or autograd node that has it is."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import Lifetime, reads_a_number
from remat_planner.tracer.torch_private import TorchDispatchMode, storage_key

aten = torch.ops.aten
# A Python number becomes a tensor of its own, which these keep for their backward.
_SAVE_FACTORS = {aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor, aten.div_.Tensor}
_FACTOR_BYTES = 8


class Lifetimes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the storages that operators make on fakes, and when they go.

    Operators are numbered as ``Recorder`` numbers them; ``answers`` are the numbers that the code then read from tensors.
    """

    def __init__(self, answers: Iterable[bool | int | float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0
        self.in_backward = False
        self._first_in_backward: int | None = None
        self._answers = iter(answers)
        self._made: dict[int, tuple[int, int]] = {}  # key of a storage -> its bytes, the operator that made it
        self._gone: list[Lifetime] = []
        self._factors: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if reads_a_number(func):
            return next(self._answers)
        if self.in_backward and self._first_in_backward is None:
            self._first_in_backward = self.operators
        self.operators += 1
        given = {storage_key(t) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **kwargs)
        if func in _SAVE_FACTORS and isinstance(args[1], (int, float)) and not self.in_backward:
            self._factors.append(self.operators - 1)
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (key := storage_key(tensor)) not in self._made and key not in given:
                storage = tensor.untyped_storage()
                self._made[key] = (storage.nbytes(), self.operators - 1)
                weakref.finalize(storage, self._go, key)
        return result

    def made(self, results: Sequence[torch.Tensor]) -> tuple[Lifetime, ...]:
        """All that was made, ``results`` to stay, but for what the backward started from."""
        stay = {storage_key(tensor) for tensor in results}
        last = self.operators - 1
        there = [Lifetime(size, first, last, stays=key in stay) for key, (size, first) in self._made.items()]
        there += [Lifetime(_FACTOR_BYTES, first, last, stays=False) for first in self._factors]
        return tuple(lifetime for lifetime in (*self._gone, *there) if lifetime.first != self._first_in_backward)

    def _go(self, key: int) -> None:
        size, first = self._made.pop(key)
        self._gone.append(Lifetime(size, first, self.operators - 1, stays=False))
