"""The private names of PyTorch around nested tensors of the jagged layout, which consist of values and offsets.

Their class turns each operator on them into operators on those. ``tests/tracer/test_torch_nested.py`` tries each by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import _symbolic_trace
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["JaggedForm", "consists_of_fakes", "has_jagged", "is_jagged", "jagged_of", "jagged_of_fakes", "parts_of_jagged"]

_MODULE = "torch.nested._internal.nested_tensor"


@dataclass(frozen=True, slots=True)
class JaggedForm:
    """What a jagged tensor is besides its parts.

    Attributes:
        ragged_dim: the dimension whose size varies.
        known: lengths of its shortest and longest entry, those of them that are known, by the names of their cache.
        has_lengths: whether it has lengths besides offsets: there are gaps between its entries.
    """

    ragged_dim: int
    known: tuple[tuple[str, int], ...]
    has_lengths: bool

    @classmethod
    def of(cls, tensor: Any) -> JaggedForm:
        """The form of ``tensor``."""
        known = tuple(sorted((name, value.shape[0]) for name, value in tensor._metadata_cache.items()))
        return cls(tensor._ragged_idx, known, tensor._lengths is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The methods that return the dense tensors of which one consists, in the order of ``parts_of_jagged``."""
        return ("values", "offsets", "lengths") if self.has_lengths else ("values", "offsets")


def parts_of_jagged(tensor: Any) -> tuple[torch.Tensor, ...]:
    """The dense tensors that a jagged one consists of, in its own memory."""
    parts = tensor._values, tensor._offsets, tensor._lengths
    return tuple(part for part in parts if part is not None)


def jagged_of(form: JaggedForm, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The jagged tensor of ``parts``, in their memory."""
    module: Any = import_module(_MODULE)
    with _disable_current_modes():
        known = {name: torch.zeros(length, 0) for name, length in form.known}
    values, offsets, *lengths = parts
    made: torch.Tensor = module.NestedTensor(
        values, offsets, lengths=lengths[0] if lengths else None, _ragged_idx=form.ragged_dim, _metadata_cache=known
    )
    return made


def consists_of_fakes(tensor: Any) -> bool:
    """Whether a jagged tensor consists of fakes."""
    return isinstance(tensor._values, FakeTensor)


def has_jagged(types: Iterable[type]) -> bool:
    """Whether nested tensors of the jagged layout are among tensors of these classes."""
    return any(kind.__module__ == _MODULE for kind in types)


def is_jagged(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is a nested tensor of the jagged layout."""
    return type(tensor).__module__ == _MODULE


@contextmanager
def jagged_of_fakes(mode: FakeTensorMode) -> Iterator[None]:
    """Let jagged tensors consist of fakes of ``mode``: the size that varies is a number of its own, as in eager.

    ``torch.nested.nested_tensor_from_jagged`` refuses to run while a graph is traced, and does not see it inside. The tensor
    that all jagged ones have as an example is made once, of real memory.
    """
    module: Any = import_module(_MODULE)
    tracing: Any = _symbolic_trace
    is_fx_tracing, example = tracing.is_fx_tracing, module._nt_view_dummy

    def nested_int(*, nt_tensor_id: int | None = None) -> Any:
        from torch.nested._internal.nested_int import NestedIntNode

        if nt_tensor_id is None:
            nt_tensor_id = module._tensor_id_counter
            module._tensor_id_counter += 1
        return torch.SymInt(NestedIntNode(nt_tensor_id, 1))  # type: ignore[no-untyped-call]

    def real_example() -> torch.Tensor:
        with _disable_current_modes():
            made: torch.Tensor = example()
            return made

    mode.create_symbolic_nested_int = nested_int  # type: ignore[method-assign]
    tracing.is_fx_tracing = lambda: False
    module._nt_view_dummy = real_example
    try:
        yield
    finally:
        tracing.is_fx_tracing, module._nt_view_dummy = is_fx_tracing, example
        del mode.create_symbolic_nested_int  # the method of the class is in its place again
