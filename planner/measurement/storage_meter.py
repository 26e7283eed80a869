"""Counting live tensor storages, operator by operator: a true peak without kernel workspaces."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class StorageMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Live bytes of the tensor storages that operators allocate inside.

    A storage counts from the operator that returns it to its last reference. It dispatches every operator through Python: for
    tests and diagnosis, never for training.

    Args:
        known: tensors whose storages do not count (parameters, inputs).
        device: count storages on this type of device only; None: on all.

    Attributes:
        live: bytes of the storages that are alive.
        peak: highest ``live`` after any operator.
        operator: the operator after which the peak was reached.
    """

    def __init__(self, known: Iterable[torch.Tensor] = (), device: str | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.operator = ""
        self._device = device
        self._known = [tensor.untyped_storage() for tensor in known]  # a reference keeps their addresses from being reused
        self._ignored = {storage._cdata for storage in self._known}
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and self._device in (None, leaf.device.type):
                self._count(leaf.untyped_storage())
        if self.live > self.peak:
            self.peak = self.live
            self.operator = str(func)
        return result

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        self._known.clear()

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        size = storage.nbytes()
        if key in self._ignored:
            return
        if key not in self._bytes:
            weakref.finalize(storage, self._free, key)
        self.live += size - self._bytes.get(key, 0)  # an operator may resize a storage
        self._bytes[key] = size

    def _free(self, key: int) -> None:
        self.live -= self._bytes.pop(key)
