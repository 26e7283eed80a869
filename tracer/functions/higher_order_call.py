"""A call of an operator that takes functions as one operator: a branch whose predicate nobody knows, attention with a score
function.

The functions are graphs of operators. Their forms on fakes tell those of the results, so the call needs no sample.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.functions.call import Results
from remat_planner.tracer.functions.errors import SampleError
from remat_planner.tracer.functions.forms import TensorForm, UnlikePlannedError, located
from remat_planner.tracer.functions.operator_call import OperatorCall, OperatorResults, marked
from remat_planner.tracer.functions.surroundings import current_autocast
from remat_planner.tracer.operators import OpCall, OperatorFacts, TensorSpec, Values, is_pure, is_random, written_arguments
from remat_planner.tracer.torch_higher_order import BRANCH, FLEX_ATTENTION, is_higher_order, name_of, run_kernel
from remat_planner.tracer.torch_private import FakeTensorMode, is_fake, storage_key
from remat_planner.tracer.torch_tracing import tracing_interrupted

_MOST_HASHED = 1 << 16
"""Bytes of a constant in a function that tell it from others."""
_OF_FLEX_ATTENTION = "flex_lib"
"""Namespace of the operator that sums the gradient of a tensor which a score function reads."""
_BACKWARD_PRODUCTS = 2.5
"""Matrix products of a backward of attention for each of its forward: the scores again, and four gradients, to two."""


@dataclass(frozen=True, slots=True)
class GraphArgument:
    """A function among the arguments of a call. Equal ones compute the same.

    Attributes:
        digest: of its code and constants, the same in every process.
        graph: the function.
    """

    digest: str
    graph: fx.GraphModule

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GraphArgument) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"graph {self.digest}"


@dataclass(eq=False)
class HigherOrderCall(OperatorCall):
    """A call of an operator that takes functions."""

    @classmethod
    def on_fakes(
        cls, function: Callable[..., Any], args: Any, kwargs: Any, mode: FakeTensorMode
    ) -> tuple[HigherOrderCall, list[torch.Tensor]]:
        """The call ``function(*args, **kwargs)`` on fakes of ``mode``, and the tensors in it.

        Raises:
            SampleError: it cannot be one operator.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        kept, tensors = marked([_graph_argument(leaf) if callable(leaf) else leaf for leaf in leaves])
        forms = tuple(replace(TensorForm.of_argument(tensor), requires_grad=False) for tensor in tensors)
        call = cls._like(function, forms, kept, spec, current_autocast())
        assert isinstance(call, HigherOrderCall)
        if call.results is None:
            call.results, call.returned = call._learnt(args, kwargs, tensors, mode)
        return call, tensors

    @property
    def name(self) -> str:
        """The operator's name."""
        return name_of(self.function)

    @property
    def short_name(self) -> str:
        """A short name."""
        return self.name

    @property
    def recorded_name(self) -> str:
        """The name under which cost profiles know the call."""
        return f"higher-order {self.description}"

    @cached_property
    def facts(self) -> OperatorFacts:
        """What is known about the call."""
        nodes = [node for graph in self._graphs for node in _nodes(graph)]
        draws = any(is_random(node.target, node.args, node.kwargs) for node in nodes)
        pure = not any(_changes_something(node) for node in nodes)
        pinned = None if pure else f"a higher-order operator ({self.name}) with operators inside that may not run twice"
        flops = self._flops if self.name in FLEX_ATTENTION else None
        return OperatorFacts(pure=pure, pinned=pinned, draws=draws, flops=flops, sample_inputs=self._fills)

    @property
    def _graphs(self) -> list[fx.GraphModule]:
        return [leaf.graph for leaf in self.leaves if isinstance(leaf, GraphArgument)]

    def _called(self, args: Any, kwargs: Any) -> Any:
        return run_kernel(self.function, args, kwargs)

    def _filled_leaf(self, leaf: Any) -> Any:
        return leaf.graph if isinstance(leaf, GraphArgument) else leaf

    def _learnt(
        self, args: Any, kwargs: Any, tensors: Sequence[torch.Tensor], mode: FakeTensorMode
    ) -> tuple[Results, tuple[pytree.TreeSpec, tuple[Any, ...]]]:
        with tracing_interrupted(), mode:
            if self.name == BRANCH:
                if any(is_higher_order(node.target) for graph in self._graphs for node in _nodes(graph)):
                    raise SampleError("a branch inside of it chooses by a value again, so what it allocates is not known")
                _, true, false, operands = args
                found = [self._taken(branch(*operands)) for branch in (true, false)]
                if self._forms(found[0]) != self._forms(found[1]):
                    raise SampleError("its branches return tensors of different sizes, strides or dtypes")
            else:
                found = [self._taken(self.function(*args, **kwargs))]
        results = found[0]
        own = set(map(storage_key, tensors))
        if any(storage_key(tensor) in own for each in found for tensor in each.tensors):
            raise SampleError("it returns one of its arguments, or a view of one")
        try:
            places, allocated = located(results.tensors, tensors)
        except UnlikePlannedError as error:
            raise SampleError(f"it returns {error}") from None
        forms = tuple(map(TensorForm.of, allocated))
        return Results((), forms, tuple(places), draws=self.facts.draws), (results.spec, results.leaves)

    @staticmethod
    def _taken(returned: Any) -> OperatorResults:
        leaves, spec = pytree.tree_flatten(returned)
        kept, tensors = marked(leaves)
        return OperatorResults(spec, kept, tuple(tensors))

    @staticmethod
    def _forms(results: OperatorResults) -> tuple[Any, ...]:
        return results.spec, results.leaves, tuple(map(TensorForm.of_argument, results.tensors))

    def _fills(self, call: OpCall) -> Mapping[str | TensorSpec, Values]:
        """The predicate of a branch such that the branch with the higher peak runs."""
        if self.name != BRANCH:
            return {}
        predicate = call.args[0]
        peaks = [_peak(graph, self.arguments[1:]) for graph in self._graphs]
        return {predicate: lambda flat: flat.fill_(peaks[0] >= peaks[1])}

    def _flops(self, _call: OpCall) -> int:
        """FLOPs of attention over all pairs of a query and a key: which of them a mask leaves out is not known."""
        query, key, value = (form.size for form in self.arguments[:3])
        *batch, queries, width = query
        forward = 2 * math.prod(batch) * queries * key[-2] * (width + value[-1])
        return forward if self.name == "flex_attention" else int(_BACKWARD_PRODUCTS * forward)


def _graph_argument(function: Any) -> GraphArgument:
    if not isinstance(function, fx.GraphModule):
        function = getattr(function, "__wrapped__", function)
    if not isinstance(function, fx.GraphModule):
        raise SampleError(f"a function among its arguments is no graph of operators ({type(function).__name__})")
    digest = hashlib.sha256()
    for module in function.modules():
        if isinstance(module, fx.GraphModule):
            digest.update(module.code.encode())
    constants = [*function.named_parameters(), *function.named_buffers()]
    constants += [(name, value) for name, value in vars(function).items() if isinstance(value, torch.Tensor)]
    for name, constant in constants:
        if is_fake(constant) or constant.nbytes > _MOST_HASHED:
            raise SampleError("a function among its arguments holds a tensor that it does not get as an argument")
        digest.update(f"{name}{constant.dtype}{constant.tolist()}".encode())
    return GraphArgument(digest.hexdigest()[:12], function)


def _nodes(graph: fx.GraphModule) -> list[fx.Node]:
    modules = [module for module in graph.modules() if isinstance(module, fx.GraphModule)]
    return [node for module in modules for node in module.graph.nodes if node.op in ("call_function", "call_method")]


def _changes_something(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target).endswith("_")
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        pure = is_pure(target) or target.namespace == _OF_FLEX_ATTENTION
        return not pure or bool(written_arguments(target, node.args, node.kwargs))
    name: str = getattr(target, "__name__", "")
    if getattr(target, "__module__", "") == operator.add.__module__:
        return name == "setitem" or (name.startswith("i") and hasattr(operator, name[1:]))  # iadd, imul, ...
    return name.endswith("_")


class _Peak(fx.Interpreter):
    """Bytes of the values that a graph holds at one time at most, besides its arguments."""

    highest = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        given = {key for node, value in self.env.items() if node.op == "placeholder" for key in _storages(value)}
        held = {k: size for value in (*self.env.values(), result) for k, size in _storages(value).items() if k not in given}
        self.highest = max(self.highest, sum(held.values()))
        return result


def _storages(value: Any) -> dict[int, int]:
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}


def _peak(graph: fx.GraphModule, forms: Sequence[TensorForm]) -> int:
    meter = _Peak(graph)
    with FakeTensorMode(allow_non_fake_inputs=True):
        meter.run(*[form.empty() for form in forms])
    return meter.highest
