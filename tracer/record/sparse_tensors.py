"""Operators on sparse tensors, while a step is recorded: each becomes one on the dense tensors that those consist of.

Autograd records them as it does in eager, on fakes that have the form of a sparse tensor and its parts as an attribute. Below
autograd, where the recorder sees each operator, it is a call of ``tracer.functions.OperatorCall``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch

from remat_planner.tracer.functions import OperatorCall, SampleError
from remat_planner.tracer.joint import Parts
from remat_planner.tracer.leaves import tensors_in
from remat_planner.tracer.operators import SAME_TENSOR
from remat_planner.tracer.record.operator_calls import recorded_results
from remat_planner.tracer.record.outside_tensors import OutsideTensors
from remat_planner.tracer.record.value_guards import UnknownValueError
from remat_planner.tracer.refusals import data_dependent_error, sparse_operator_error
from remat_planner.tracer.torch_nested import JaggedForm, jagged_of
from remat_planner.tracer.torch_private import FakeTensorMode, is_fake, without_modes
from remat_planner.tracer.torch_sparse import SparseForm, fake_sparse, is_sparse, parts_of_sparse

_MAKERS = ("sparse_", "_sparse_", "to_sparse", "_to_sparse", "_validate_sparse", "_validate_compressed_sparse")
"""How the names of operators begin that make sparse tensors of dense ones."""
_Apart = tuple[SparseForm, tuple[torch.Tensor, ...]]
_DENSE_RESULTS = ("_sparse_semi_structured",)
_CHECKS = ("_validate_sparse", "_validate_compressed_sparse")


def has_sparse(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator takes or makes a sparse tensor."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace != "aten":
        return False
    name = func._schema.name.partition("::")[2]
    if name.startswith(_MAKERS) and not name.startswith(_DENSE_RESULTS):
        return True
    return any(map(is_sparse, tensors_in((args, kwargs))))


def stand_in(mode: FakeTensorMode, parts: Parts) -> torch.Tensor:
    """What stands for the sparse or jagged tensor that consists of ``parts``, which are fakes."""
    if isinstance(parts.form, JaggedForm):
        return jagged_of(parts.form, parts.parts)
    fake = fake_sparse(mode, parts.form, parts.parts)
    fake.sparse_parts = parts.form, parts.parts  # type: ignore[attr-defined]
    return fake


class Reads(Protocol):
    """Answers what a step reads from tensors, as ``KnownValues`` does."""

    def read(
        self, func: Callable[..., Any], args: Any, kwargs: Any, source: str, kind: Literal["value", "size"] = "value", /
    ) -> Any:
        """The result of ``func`` on the values of its arguments."""


class SparseOperators:
    """Records the operators on sparse tensors of one step.

    Args:
        mode: of the fakes.
        known: the values that the step may read.
        outside: is told of tensors in Python state.
    """

    def __init__(self, mode: FakeTensorMode, known: Reads, outside: OutsideTensors | None = None) -> None:
        self._mode = mode
        self._known = known
        self._outside = outside
        self._real: dict[int, tuple[torch.Tensor, _Apart]] = {}

    def run(self, func: Any, args: Any, kwargs: Any, source: str, run: Callable[..., Any]) -> Any:
        """The result of an operator that takes or makes sparse tensors; ``run`` records one on dense tensors.

        Raises:
            CaptureError: the operator cannot be recorded.
        """
        name = func._schema.name.partition("::")[2]
        if name.startswith(_CHECKS):
            return None
        if func in SAME_TENSOR:
            form, parts = self._apart(args[0])
            return stand_in(self._mode, Parts(form, parts))
        if func._schema.is_mutable:
            raise sparse_operator_error(func, source, "it changes a sparse tensor in place")
        try:
            call, tensors = OperatorCall.of(func, args, kwargs, self._apart)
        except SampleError as error:
            raise sparse_operator_error(func, source, str(error)) from None
        call = self._sampled(call, tensors, source)
        return call.unflattened(recorded_results(call, tensors, run), self._fake)

    def _sampled(self, call: OperatorCall, tensors: list[torch.Tensor], source: str) -> OperatorCall:
        try:
            if not call.is_sized_by_values and call.ensure_sampled():
                return call
        except Exception as error:
            text = (str(error).splitlines() or [""])[0].rstrip(".")
            why = f"on samples of the same forms it raised {type(error).__name__}: {text}"
            raise sparse_operator_error(call.name, source, why) from error
        try:
            return call.with_sizes(self._known.read(call.sizes_on, (call.deciding(tensors),), {}, source, "size"))
        except UnknownValueError as error:
            why = f"the number of entries of the result depends on it, and {error}"
            raise data_dependent_error(call.name, source, why) from None

    def _apart(self, tensor: torch.Tensor) -> _Apart:
        if self._outside is not None:
            self._outside.note([tensor])
        known: _Apart | None = getattr(tensor, "sparse_parts", None)
        if known is not None:
            return known
        if is_fake(tensor):
            raise NotImplementedError(f"a fake of layout {tensor.layout} that is no part of the recording")
        if id(tensor) not in self._real:
            with without_modes():
                self._real[id(tensor)] = tensor, (SparseForm.of(tensor), parts_of_sparse(tensor))
        return self._real[id(tensor)][1]

    def _fake(self, form: SparseForm, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return stand_in(self._mode, Parts(form, parts))
