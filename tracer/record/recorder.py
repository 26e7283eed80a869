"""The dispatch mode of a recording: it sees every operator that eager runs, without decompositions, in eager's order.

It writes the module and the source line of an operator on its graph nodes, answers reads of known values, and refuses operators
that a captured step cannot hold.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from remat_planner.tracer.functions import HigherOrderCall, SampleError, check_value
from remat_planner.tracer.graph_trace import is_recording, newest_node, nodes_after, recorded_graph
from remat_planner.tracer.joint import EagerOperator
from remat_planner.tracer.leaves import leaves_of, tensors_in, with_leaves
from remat_planner.tracer.operators import (
    communicates_in_place,
    is_random,
    moves_in_place,
    reads_a_number,
    sized_by_values,
    takes_generator,
)
from remat_planner.tracer.python_state import unobserved
from remat_planner.tracer.record.cumulative_averages import CumulativeAverages
from remat_planner.tracer.record.expected_checks import ExpectedChecks
from remat_planner.tracer.record.gradient_flow import FollowedGradients
from remat_planner.tracer.record.operator_calls import recorded_results
from remat_planner.tracer.record.outside_tensors import OutsideTensors
from remat_planner.tracer.record.provenance import OperatorOrigin, Provenance, user_line
from remat_planner.tracer.record.random_state import default_generators
from remat_planner.tracer.record.read_numbers import ReadNumbers
from remat_planner.tracer.record.sparse_tensors import SparseOperators, has_sparse
from remat_planner.tracer.record.value_guards import KnownValues, UnknownValueError
from remat_planner.tracer.refusals import (
    collective_error,
    data_dependent_error,
    higher_order_error,
    refuse_made_layout,
    storage_view_error,
)
from remat_planner.tracer.torch_higher_order import (
    BRANCH,
    FLEX_ATTENTION,
    is_higher_order,
    name_of,
    run_kernel,
    runs_as_operators,
)
from remat_planner.tracer.torch_nested import consists_of_fakes, has_jagged, is_jagged
from remat_planner.tracer.torch_private import (
    FakeTensorMode,
    TorchDispatchMode,
    backward_sequence_number,
    generator_key,
    in_checkpoint,
    in_checkpoint_replaying_draws,
    is_fake,
)
from remat_planner.tracer.torch_values import is_composite, result_given, run_composite

_PRODUCTS = tuple(
    getattr(torch.ops.aten, name).default for name in ("mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm", "convolution")
)
_VIEWS_STORAGE = (torch.ops.aten.set_.source_Storage, torch.ops.aten.set_.source_Storage_storage_offset)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator while a trace runs.

    Attributes:
        in_backward: set by the caller when the backward begins.
        followed: set by the caller where the flow of gradients is followed; it is told of each operator.
        operators: all operators so far, dead ones too.
        averages: the batch normalisations that average over all batches.
        numbers: those that the forward reads and hands on.
        moves: the line that first gives a tensor another form in place, by the id of the tensor.
        checkpointed: modules whose operators the caller's own ``torch.utils.checkpoint`` runs again in the backward.
        own_generators: the line of the first draw from each generator that is no default one, by the generator's key.
    """

    supports_higher_order_operators = True

    @classmethod
    def is_infra_mode(cls) -> bool:
        """So that ``torch.compile``, which operators that take functions call in eager too, compiles inside."""
        return True

    def __init__(
        self, mode: FakeTensorMode, provenance: Provenance, known: KnownValues, outside: OutsideTensors | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.in_backward = False
        self.followed: FollowedGradients | None = None
        self.operators: list[EagerOperator] = []
        self.moves: dict[int, str] = {}
        self.checkpointed: dict[str, None] = {}
        self.own_generators: dict[int, str] = {}
        self.averages = CumulativeAverages()
        self.numbers = ReadNumbers()
        self._mode = mode
        self._provenance = provenance
        self._known = known
        self._outside = outside
        self._checks = ExpectedChecks()
        self._below_autograd = 0  # how many operators that take functions run: composite ones come whole to a mode inside
        self._sparse = SparseOperators(mode, known, outside)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked of each tensor, in C
            return args[0].device if is_fake(args[0]) else func(*args, **(kwargs or {}))
        if has_jagged(types):
            self._note_jagged(args, kwargs or {})
            return NotImplemented  # their class calls operators on what they consist of
        if not isinstance(func, torch._ops.OpOverload):
            return self._run(func, args, kwargs or {})  # a higher-order operator calls code of the user's
        with unobserved():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: Any, kwargs: Any, name: str = "") -> Any:
        if not is_recording():  # computes forms alone
            return func(*args, **kwargs)
        origin = self._provenance.of_running_operator(in_backward=self.in_backward)
        if self._below_autograd and is_composite(func):
            with self:
                return run_composite(func, *args, **kwargs)
        if is_higher_order(func):
            return self._run_higher_order(func, args, kwargs, origin)
        if has_sparse(func, args, kwargs):
            return self._sparse.run(func, args, kwargs, origin.source, self._run)
        _refuse_unsupported(func, origin.source)
        if self._outside is not None:
            self._outside.note_arguments(func, args, kwargs, origin.source)
        if not self.in_backward:
            refuse_made_layout(func, origin.source)
        if func in _PRODUCTS:
            _refuse_mixed_dtypes(func, args)
        if reads_a_number(func):
            if (count := self.averages.count(func, args, origin, in_backward=self.in_backward)) is not None:
                self._known.answers.append(count)
                return count
            try:
                return self._known.read(func, args, kwargs, origin.source)
            except UnknownValueError as error:
                expected = self._checks.expected(args[0])
                if expected is None or (self.in_backward and not in_checkpoint()):
                    refusal = data_dependent_error(func, origin.source, str(error), is_number=not self.in_backward)
                    drawn = self._known.draws.range_of(args[0])
                    if self.in_backward or not self.numbers.give(args[0], origin.module, origin.source, refusal, drawn):
                        raise refusal from None
                    return False
                if not self.in_backward:
                    self._check(args[0], expected, origin)
                self._known.answers.append(expected)
                return expected
        autograd_node = backward_sequence_number() if self.in_backward else None
        repeated = self.in_backward and torch.is_grad_enabled() and in_checkpoint()
        if repeated:
            self.checkpointed.setdefault(origin.module)
        self.operators.append(EagerOperator(name or str(func), origin.module, self.in_backward, autograd_node))
        args, kwargs, generator = self._without_generator(func, args, kwargs, origin)
        draws_again = generator is None and self.in_backward and is_random(func, args, kwargs)
        replayed = draws_again and in_checkpoint_replaying_draws()
        last_node = newest_node(recorded_graph())
        result = self._on_fakes(func, args, kwargs, origin)
        self._label_nodes_after(last_node, origin, repeated=repeated, replayed=replayed, generator=generator)
        self.averages.use_factor(func, nodes_after(last_node))
        self._follow(func, args, kwargs, result, origin)
        self._checks.follow(func, args, kwargs, result)
        if self.followed is not None:
            self.followed.ran(func, args, result, len(self.operators) - 1)
        if moves_in_place(func):
            self.moves.setdefault(id(args[0]), origin.source)
        return result

    def _note_jagged(self, args: Any, kwargs: Any) -> None:
        """Jagged tensors of Python state are noted as such: of what they consist, nobody says where it lies."""
        if self._outside is not None:
            jagged = list(filter(is_jagged, tensors_in((args, kwargs))))
            self._outside.note(leaf for leaf in jagged if not consists_of_fakes(leaf) and leaf.device.type != "meta")

    def _run_higher_order(self, func: Any, args: Any, kwargs: Any, origin: OperatorOrigin) -> Any:
        """The result of an operator that takes functions.

        Loops run as the operators inside of them, and so do branches where the predicate is known. Other branches are one
        operator, and so is attention with a score function.
        """
        name = name_of(func)
        if name in FLEX_ATTENTION or (name == BRANCH and not self._is_known(args[0], origin)):
            return self._as_one_operator(func, args, kwargs, origin)
        if not runs_as_operators(func):
            raise higher_order_error(name, origin.source)
        self._below_autograd += 1
        try:
            with self:
                return run_kernel(func, args, kwargs)
        finally:
            self._below_autograd -= 1

    def _as_one_operator(self, func: Any, args: Any, kwargs: Any, origin: OperatorOrigin) -> Any:
        try:
            call, tensors = HigherOrderCall.on_fakes(func, args, kwargs, self._mode)
        except SampleError as error:
            raise higher_order_error(name_of(func), origin.source, str(error)) from None
        return call.unflattened(recorded_results(call, tensors, self._run))

    def _is_known(self, predicate: Any, origin: OperatorOrigin) -> bool:
        if not isinstance(predicate, torch.Tensor):
            return True
        try:
            self._known.read(torch.ops.aten._local_scalar_dense.default, (predicate,), {}, origin.source)
        except UnknownValueError:
            return False
        return True

    def values_of(self, tensor: torch.Tensor, *, shared: bool = False, what: str = "all of its values") -> torch.Tensor:
        """The real values of a fake, on the host. Where they are ``shared``, a later write to it is refused.

        ``what`` is read of it, in words.

        Raises:
            DataDependentError: they are not known.
        """
        source = user_line(sys._getframe(1))
        try:
            return self._known.values(tensor, source, shared=shared)
        except UnknownValueError as error:
            raise data_dependent_error(what, source, str(error)) from None

    def _on_fakes(self, func: Any, args: Any, kwargs: Any, origin: OperatorOrigin) -> Any:
        """The result of an operator on fakes."""
        if not sized_by_values(func):
            return func(*args, **kwargs)
        try:
            with result_given(func, lambda: self._known.results(func, args, kwargs, origin.source)):
                return func(*args, **kwargs)
        except UnknownValueError as error:
            raise data_dependent_error(func, origin.source, str(error)) from None

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any, origin: OperatorOrigin) -> None:
        try:
            self._known.follow(func, args, kwargs, result)
        except UnknownValueError as error:
            raise data_dependent_error(func, origin.source, str(error)) from None

    def _check(self, tensor: torch.Tensor, expected: float, origin: OperatorOrigin) -> None:
        """Let each planned step compare what it reads here."""
        last_node = newest_node(recorded_graph())
        check_value(tensor, float(expected), origin.source)
        for node in nodes_after(last_node):
            node.meta.update(module=origin.module, source=origin.source, in_backward=False)

    def _without_generator(
        self, func: Any, args: Any, kwargs: Any, origin: OperatorOrigin
    ) -> tuple[Any, Any, torch.Generator | None]:
        """The arguments with None for a generator, which fakes do not need, and the generator unless it is a default one."""
        leaves = leaves_of((args, kwargs)) if takes_generator(func) else ()
        passed = next((leaf for leaf in leaves if isinstance(leaf, torch.Generator)), None)
        if passed is None:
            return args, kwargs, None
        args, kwargs = with_leaves((args, kwargs), lambda leaf: None if isinstance(leaf, torch.Generator) else leaf)
        if generator_key(passed) in map(generator_key, default_generators()):
            return args, kwargs, None
        self.own_generators.setdefault(generator_key(passed), origin.source)
        return args, kwargs, passed

    def _label_nodes_after(
        self, last_node: Any, origin: OperatorOrigin, *, repeated: bool, replayed: bool, generator: torch.Generator | None
    ) -> None:
        """Write on the nodes of the operator that just ran where they come from."""
        for node in nodes_after(last_node):
            node.meta["module"], node.meta["source"] = origin.module, origin.source
            node.meta["in_backward"] = self.in_backward
            node.meta["repeated"], node.meta["replayed"] = repeated, replayed
            if generator is not None:
                node.meta["generator"] = generator
            node.meta["operator"] = len(self.operators) - 1


def _refuse_mixed_dtypes(product: Any, args: Any) -> None:
    """Raise what real tensors raise; fakes multiply tensors of different dtypes.

    Raises:
        RuntimeError: the factors have different dtypes.
    """
    dtypes = [argument.dtype for argument in args if isinstance(argument, torch.Tensor)]
    if len(set(dtypes)) > 1:
        raise RuntimeError(f"{product}: all tensors must have the same dtype, but got {', '.join(map(str, dtypes))}")


def _refuse_unsupported(operator: Any, source: str) -> None:
    if communicates_in_place(operator):
        raise collective_error(operator, source)
    if operator in _VIEWS_STORAGE:
        raise storage_view_error(operator, source)
