"""Fake tensors as data, with sizes that may be numbers to be computed, and made again with these numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from remat_planner.tracer.sizes.errors import NotSizedError
from remat_planner.tracer.torch_private import FakeTensorMode, storage_key


@dataclass(frozen=True, slots=True)
class ToCompute:
    """A number that is computed from the sizes of inputs: its index among them."""

    number: int


@dataclass(frozen=True, slots=True)
class StorageForm:
    """A storage: its bytes, and how many of the tensors view it."""

    bytes: Any
    tensors: int = 1


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What a fake tensor is made of.

    Attributes:
        storage: key of its storage.
        shape, stride, offset: in elements; some of the numbers are to be computed.
        like: dtype and device.
        requires_grad: as of the tensor.
    """

    storage: int
    shape: tuple[Any, ...]
    stride: tuple[Any, ...]
    offset: Any
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    def is_view_as(self, other: TensorForm) -> bool:
        """Whether both are computed to be the same view of one storage."""
        return (self.storage, self.shape, self.stride, self.offset) == (other.storage, other.shape, other.stride, other.offset)


class TensorForms:
    """The forms of some tensors; ``to_compute(size)`` puts something in the place of a symbolic size.

    Attributes:
        storages: of all tensors so far, by key.
    """

    def __init__(self, to_compute: Callable[[Any], Any]) -> None:
        self._to_compute = to_compute
        self.storages: dict[int, StorageForm] = {}
        self._alive: list[torch.UntypedStorage] = []  # another storage may take the key of a freed one

    def of(self, tensor: torch.Tensor) -> TensorForm:
        """The form of ``tensor``.

        Raises:
            NotSizedError: it has no strides, or is a view that conjugates or negates.
        """
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            raise NotSizedError("a tensor is sparse, or a view that conjugates or negates")
        key, sizes = storage_key(tensor), self._to_compute
        known = self.storages.get(key)
        if known is None:
            self._alive.append(tensor.untyped_storage())
            self.storages[key] = StorageForm(sizes(tensor.untyped_storage().nbytes()))
        else:
            self.storages[key] = StorageForm(known.bytes, known.tensors + 1)
        return TensorForm(
            key,
            tuple(map(sizes, tensor.shape)),
            tuple(map(sizes, tensor.stride())),
            sizes(tensor.storage_offset()),
            tensor.dtype,
            tensor.device,
            tensor.requires_grad,
        )

    def release(self) -> None:
        """There are no more tensors to come."""
        self._alive.clear()


class Fakes:
    """Makes fakes of forms, which view one storage where the forms name one.

    Args:
        mode: of the fakes.
        storages: of the forms, by key.
        number: the number for what is to be computed.
    """

    def __init__(self, mode: FakeTensorMode, storages: dict[int, StorageForm], number: Callable[[Any], Any]) -> None:
        self._mode = mode
        self._storages = storages
        self._number = number
        self._bases: dict[int, torch.Tensor] = {}

    def of(self, form: TensorForm) -> torch.Tensor:
        """A fake of ``form``."""
        shape, stride = tuple(map(self._number, form.shape)), tuple(map(self._number, form.stride))
        storage, offset = self._storages[form.storage], self._number(form.offset)
        extent = 0 if 0 in shape else 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        is_whole = self._number(storage.bytes) == extent * form.dtype.itemsize
        with self._mode, torch.no_grad():
            if storage.tensors == 1 and is_whole and not offset:
                fake = torch.empty_strided(shape, stride, dtype=form.dtype, device=form.device)
            else:
                fake = self._base(form).as_strided(shape, stride, offset)
        return fake.requires_grad_() if form.requires_grad else fake

    def _base(self, form: TensorForm) -> torch.Tensor:
        base = self._bases.get(form.storage)
        if base is None:
            elements = self._number(self._storages[form.storage].bytes) // form.dtype.itemsize
            base = self._bases[form.storage] = torch.empty(elements, dtype=form.dtype, device=form.device)
        return base if base.dtype == form.dtype else base.view(form.dtype)
