"""What tensors look like, and where those that a Function returns or keeps lie: in memory of an argument, or in their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from remat_planner.tracer.torch_private import storage_key

View = tuple[tuple[int, ...], tuple[int, ...], int]
"""Size, strides and offset (elements) of a tensor, the offset counted from the start of the tensor that it views."""

ByIndex = Sequence[torch.Tensor] | Mapping[int, torch.Tensor]


class UnlikePlannedError(Exception):
    """A tensor is not where, or not what, the plan expects."""


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What a tensor looks like.

    Attributes:
        size, stride, offset: in elements.
        storage_bytes: of the storage that it views.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    storage_bytes: int
    requires_grad: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorForm:
        """The form of ``tensor``."""
        return cls(
            tuple(tensor.shape),
            tensor.stride(),
            int(tensor.storage_offset()),
            tensor.dtype,
            tensor.device,
            tensor.untyped_storage().nbytes(),
            tensor.requires_grad,
        )

    @classmethod
    def of_argument(cls, tensor: torch.Tensor) -> TensorForm:
        """The form of ``tensor``, whatever memory lies around it: a call does not depend on that."""
        extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        stored = extent * tensor.itemsize if tensor.numel() else 0
        return cls(tuple(tensor.shape), tensor.stride(), 0, tensor.dtype, tensor.device, stored, tensor.requires_grad)

    def fits(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` has this size, these strides and this dtype."""
        return self.size == tensor.shape and self.stride == tensor.stride() and self.dtype == tensor.dtype

    def empty(self) -> torch.Tensor:
        """A new tensor of this form, in a storage of this size."""
        if not self.offset and self.storage_bytes == TensorForm.of_argument(laid_out := self._laid_out()).storage_bytes:
            return laid_out
        flat = torch.empty(self.storage_bytes // self.dtype.itemsize, dtype=self.dtype, device=self.device)
        return flat.as_strided(self.size, self.stride, self.offset)

    def zeros(self) -> torch.Tensor:
        """Contiguous zeros, as autograd makes them where no gradient arrives."""
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)

    def _laid_out(self) -> torch.Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies.

    Attributes:
        own: in memory that the call has allocated; else in memory of an argument.
        index: number of the allocated tensor, or of the argument.
        view: how it views that tensor; None where it looks the same.
    """

    own: bool
    index: int
    view: View | None = None

    def of(self, arguments: ByIndex, own: ByIndex) -> torch.Tensor:
        """The tensor at this place."""
        base = (own if self.own else arguments)[self.index]
        if self.view is None:
            return base
        size, stride, offset = self.view
        return base.as_strided(size, stride, base.storage_offset() + offset)


def located(
    tensors: Sequence[torch.Tensor | None], arguments: Sequence[torch.Tensor]
) -> tuple[list[Place | None], list[torch.Tensor]]:
    """The place of each tensor, and the tensors that lie in memory of their own, one for each storage.

    Raises:
        UnlikePlannedError: a tensor reads an argument's memory as another dtype.
    """
    own: list[torch.Tensor] = []
    places: list[Place | None] = []
    for tensor in tensors:
        if tensor is None:
            places.append(None)
            continue
        bases = [(False, i, a) for i, a in enumerate(arguments)] + [(True, i, a) for i, a in enumerate(own)]
        key = storage_key(tensor)
        shared = next((base for base in bases if storage_key(base[2]) == key), None)
        if shared is None:
            places.append(Place(True, len(own)))
            own.append(tensor)
        else:
            places.append(Place(shared[0], shared[1], _view(tensor, shared[2])))
    return places, own


def own_tensors(
    tensors: Sequence[torch.Tensor | None],
    places: Sequence[Place | None],
    arguments: Sequence[torch.Tensor],
    forms: Sequence[TensorForm],
) -> list[torch.Tensor]:
    """Those of ``tensors`` that lie in memory of their own, if all are at their ``places`` and in their ``forms``.

    Raises:
        UnlikePlannedError: they are not.
    """
    own: dict[int, torch.Tensor] = {}
    for tensor, place in zip(tensors, places, strict=True):
        if tensor is None or place is None:
            if tensor is not None or place is not None:
                raise UnlikePlannedError("a tensor where None was planned, or None where a tensor was")
            continue
        base = own.setdefault(place.index, tensor) if place.own else arguments[place.index]
        if base is tensor and place.own:
            if not forms[place.index].fits(tensor):
                planned = forms[place.index]
                raise UnlikePlannedError(
                    f"{tensor.dtype} {list(tensor.shape)} with strides {list(tensor.stride())} where {planned.dtype} "
                    f"{list(planned.size)} with strides {list(planned.stride)} was planned"
                )
        elif storage_key(base) != storage_key(tensor) or _view(tensor, base) != place.view:
            raise UnlikePlannedError("a tensor in other memory than planned: a view where a copy was, or the other way round")
    return [own[i] for i in range(len(forms))]


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, also where several elements lie in one place."""
    form = TensorForm.of_argument(tensor)
    memory = tensor.detach().as_strided((form.storage_bytes // tensor.itemsize,), (1,), tensor.storage_offset())
    return memory.clone().as_strided(form.size, form.stride, 0)


def with_flag(tensor: torch.Tensor, requires_grad: bool) -> torch.Tensor:
    """``tensor`` itself, or an alias, that requires a gradient or not."""
    return tensor if tensor.requires_grad == requires_grad else tensor.detach().requires_grad_(requires_grad)


def _view(tensor: torch.Tensor, base: torch.Tensor) -> View | None:
    if tensor.dtype != base.dtype or tensor.is_conj() != base.is_conj() or tensor.is_neg() != base.is_neg():
        raise UnlikePlannedError("a tensor that reads another one's memory as another dtype")
    offset = int(tensor.storage_offset() - base.storage_offset())
    if not offset and tensor.shape == base.shape and tensor.stride() == base.stride():
        return None
    return tuple(tensor.shape), tensor.stride(), offset
