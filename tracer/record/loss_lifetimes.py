"""When the storages of a loss are resident.

Eager frees a storage with the last variable or autograd node that refers to it, which may be long after its last use.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from remat_planner.tracer.joint import StorageLifetime
from remat_planner.tracer.leaves import leaves_of, tensors_in
from remat_planner.tracer.operators import bound_arguments, reads_a_number, sized_result
from remat_planner.tracer.record.provenance import user_line
from remat_planner.tracer.record.sparse_tensors import SparseOperators, has_sparse
from remat_planner.tracer.record.value_guards import tensor_of
from remat_planner.tracer.refusals import higher_order_error, nested_loss_error
from remat_planner.tracer.torch_higher_order import is_higher_order, name_of
from remat_planner.tracer.torch_nested import has_jagged
from remat_planner.tracer.torch_private import FakeTensorMode, TorchDispatchMode, storage_key
from remat_planner.tracer.torch_values import result_given

aten = torch.ops.aten
_SAVE_FACTORS = {aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor, aten.div_.Tensor}
"""Operators that turn a Python number into a tensor of its own and save it for their backward."""
_FACTOR_BYTES = 8
"""Bytes of such a tensor: one float64 or int64."""


class LossLifetimes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which storages operators allocate on fakes, and when each is freed.

    Args:
        mode: of the fakes.
        answers: what the code reads from tensors, values and sizes, in order, as a run under ``Recorder`` found it.

    Attributes:
        operators: how many operators have run; they are numbered as ``Recorder`` numbers them.
        in_backward: set by the caller when the backward begins.
    """

    supports_higher_order_operators = True

    def __init__(self, mode: FakeTensorMode, answers: Iterable[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0
        self.in_backward = False
        self._first_in_backward: int | None = None
        self._answers = iter(answers)
        self._sparse = SparseOperators(mode, self)
        self._resident: dict[int, tuple[int, int]] = {}  # key of a storage -> its bytes, the operator that allocated it
        self._freed: list[StorageLifetime] = []
        self._factors: list[int] = []  # operators that saved a Python number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if has_jagged(types):
            raise nested_loss_error(user_line(sys._getframe(1)))
        if is_higher_order(func):
            raise higher_order_error(name_of(func), user_line(sys._getframe(1)), "in a loss nobody knows what it allocates")
        if has_sparse(func, args, kwargs):
            return self._sparse.run(func, args, kwargs, "", self._run)
        return self._run(func, args, kwargs)

    def read(self, *_call: Any) -> Any:
        """What the code reads next from tensors."""
        return next(self._answers)

    def _run(self, func: Any, args: Any, kwargs: Any, name: str = "") -> Any:  # noqa: ARG002 - as in Recorder
        if reads_a_number(func):
            return next(self._answers)
        if self.in_backward and self._first_in_backward is None:
            self._first_in_backward = self.operators
        number = self.operators
        self.operators += 1
        arguments = set(map(storage_key, tensors_in((args, kwargs))))
        with result_given(func, lambda: self._sized(func, args, kwargs)):
            result = func(*args, **kwargs)
        if func in _SAVE_FACTORS and isinstance(args[1], (int, float)) and not self.in_backward:
            self._factors.append(number)
        for tensor in leaves_of(result):
            if isinstance(tensor, torch.Tensor) and (key := storage_key(tensor)) not in self._resident and key not in arguments:
                storage = tensor.untyped_storage()
                self._resident[key] = (storage.nbytes(), number)
                weakref.finalize(storage, self._free, key)
        return result

    def values_of(self, tensor: torch.Tensor, **_: Any) -> torch.Tensor:
        """The values of a fake, on the host."""
        return tensor_of(next(self._answers), tensor)

    def _sized(self, func: Any, args: Any, kwargs: Any) -> Any:
        sized = sized_result(func, args, kwargs)
        assert sized is not None, "the run under Recorder would have refused it"
        return sized.results(bound_arguments(func, args, kwargs), next(self._answers))

    def of_storages(self, results: Sequence[torch.Tensor]) -> tuple[StorageLifetime, ...]:
        """The lifetime of every storage, except of the one that the backward starts from; those of ``results`` stay."""
        stay = {storage_key(tensor) for tensor in results}
        last = self.operators - 1
        lifetimes = list(self._freed)
        lifetimes += [StorageLifetime(size, first, last, stays=key in stay) for key, (size, first) in self._resident.items()]
        lifetimes += [StorageLifetime(_FACTOR_BYTES, first, last, stays=False) for first in self._factors]
        return tuple(lifetime for lifetime in lifetimes if lifetime.first != self._first_in_backward)

    def _free(self, key: int) -> None:
        size, first = self._resident.pop(key)
        self._freed.append(StorageLifetime(size, first, self.operators - 1, stays=False))
