"""The recorded graph, run once more under a trace that functionalizes it.

Few operators of a step write in place, and what reads or makes no tensor that is written to is in the functional graph as it
was recorded. Such nodes are copied: to run one takes twenty times as long.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.functions import is_custom, run_on_copies
from remat_planner.tracer.graph_trace import append_copy, newest_node, nodes_after, recorded_graph, stand_for
from remat_planner.tracer.leaves import tensors_in
from remat_planner.tracer.operators import moves_in_place, with_some_number, written_arguments
from remat_planner.tracer.passes.eager_memory import EagerMemory
from remat_planner.tracer.passes.in_place_on_strided import mark_in_place, pure_form_of_permuted
from remat_planner.tracer.refusals import no_functional_form_error
from remat_planner.tracer.torch_private import storage_key
from remat_planner.tracer.torch_tracing import functional_tensor, functional_value
from remat_planner.tracer.torch_values import like, result_given

aten = torch.ops.aten

ORIGIN = ("module", "source", "in_backward", "replayed", "operator", "generator", "repeated")
"""Notes on a recorded node that those in its place inherit."""
COPY_OF_PURE_FORM = "copy_of_pure_form"
"""Note on a node that copies the result of a pure form into the tensor that eager changes."""

# In-place operators of PyTorch that functionalization does not know, with their pure forms.
_PURE_FORMS: dict[Any, Callable[..., torch.Tensor]] = {
    aten.polygamma_.default: lambda tensor, n: aten.polygamma.default(n, tensor),
}


class Replay(fx.Interpreter):
    """Runs a graph under a trace; the nodes that it appends inherit the origin of the node that it runs.

    Args:
        module: the recorded graph.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._factors: dict[fx.Node, fx.Node] = {}
        self._memory = EagerMemory()
        self._storages = {node: _storages(node) for node in module.graph.nodes}
        self._written = _written_storages(self._storages)
        self._copies: dict[fx.Node, fx.Node] = {}

    def is_written(self, node: fx.Node) -> bool:
        """Whether some operator writes to the memory of what ``node`` makes."""
        return not self._written.isdisjoint(self._storages[node])

    def map_nodes_to_values(self, args: Any, n: fx.Node) -> Any:
        for node in n.all_input_nodes:
            if node in self._copies and isinstance(self.env[node], torch.Tensor):
                self.env[node] = functional_tensor(functional_value(self.env[node]))
        return super().map_nodes_to_values(args, n)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return with_some_number(n, args), kwargs

    def run_node(self, n: fx.Node) -> Any:
        if self._is_as_recorded(n):
            return self._copy(n)
        last = newest_node(recorded_graph())
        pure = _pure_form(n)
        try:
            if is_mutable(n) and is_custom(n.target):
                target: Any = n.target
                args, kwargs = self.fetch_args_kwargs_from_env(n)
                result = run_on_copies(target, args, kwargs, written_arguments(target, args, kwargs))
            else:
                with sized_as_recorded(n):
                    result = super().run_node(n) if pure is None else self._run_pure(n, pure)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise no_functional_form_error(n.target, n.meta.get("source", ""), error) from error
        new_nodes = list(nodes_after(last))
        mark_in_place(n, new_nodes)
        if pure is not None:
            new_nodes[-1].meta[COPY_OF_PURE_FORM] = new_nodes[-1].target is aten.copy.default
        self._label(n, new_nodes)
        return self._as_recorded(n, result)

    def _as_recorded(self, n: fx.Node, result: Any) -> Any:
        """The recorded result of ``n`` in the place of ``result``, where it has the same form and nothing writes to it."""
        if n.op != "call_function" or not isinstance(result, torch.Tensor) or self.is_written(n):
            return result
        known, made = n.meta["val"], functional_value(result)
        if form_of(made) != form_of(known):
            self._written |= self._storages[n]  # what reads it may have another form too
            return result
        self._copies[n] = stand_for(n, made)
        return known

    def _is_as_recorded(self, n: fx.Node) -> bool:
        """Whether the functional graph has ``n`` as it was recorded."""
        if n.target is operator.getitem:
            return n.args[0] in self._copies
        if n.op != "call_function" or not isinstance(n.target, torch._ops.OpOverload) or is_mutable(n) or "factor" in n.meta:
            return False
        return not any(map(self.is_written, (n, *n.all_input_nodes)))

    def _copy(self, n: fx.Node) -> Any:
        """Append ``n`` without running it; its result is that of the recorded call."""
        last = newest_node(recorded_graph())
        of_copy = n.target is operator.getitem
        new = append_copy(n, lambda read: self._copies[read] if of_copy else functional_value(self.env[read]))
        self._copies[n] = new
        self._label(n, list(nodes_after(last)))  # constants that it reads among them
        return new.meta.get("val")

    def _label(self, n: fx.Node, new_nodes: list[fx.Node]) -> None:
        """Note on ``new_nodes`` what is known of ``n``, in whose place they are."""
        for node in new_nodes:
            node.meta.update({key: n.meta[key] for key in ORIGIN if key in n.meta})
        self._keep_factor(n, new_nodes)
        self._memory.label(n, new_nodes)

    def _run_pure(self, n: fx.Node, pure: Callable[..., torch.Tensor]) -> Any:
        """Write the result of ``pure`` into the tensor that ``n`` changes, which keeps its layout."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return args[0].copy_(pure(*args, **kwargs))

    def _keep_factor(self, n: fx.Node, new_nodes: list[fx.Node]) -> None:
        """Let the new node compute a factor that a node computed for ``n``."""
        if n.target is aten.reciprocal.default:
            self._factors[n] = new_nodes[-1]
        elif (position := n.meta.get("factor")) is not None:
            call = next(node for node in new_nodes if node.target is n.target)
            factor: Any = n.args[position]
            call.update_arg(position, self._factors[factor])
            call.meta["factor"] = position


def is_mutable(node: fx.Node) -> bool:
    """Whether ``node`` calls an operator that writes in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _written_storages(storages: Mapping[fx.Node, set[int]]) -> set[int]:
    """Keys of the storages that operators write to; of all, where one gives its tensor other memory."""
    mutable = [node for node in storages if is_mutable(node)]
    if any(moves_in_place(node.target) for node in mutable):
        return set().union(*storages.values())
    written = (tensor for node in mutable for tensor in written_arguments(node.target, node.args, node.kwargs))
    return set().union(*(storages[tensor] for tensor in written))


def _storages(node: fx.Node) -> set[int]:
    return set(map(storage_key, tensors_in(node.meta.get("val"))))


def form_of(tensor: torch.Tensor) -> Any:
    """How a tensor lies in its memory."""
    return tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device


def _pure_form(node: fx.Node) -> Callable[..., torch.Tensor] | None:
    """What to call in place of the in-place operator of ``node``; None where functionalization has the right form."""
    written = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(written, fx.Node):
        return None
    return _PURE_FORMS.get(node.target) or pure_form_of_permuted(node.target, written.meta.get("val"))


def sized_as_recorded(node: fx.Node) -> AbstractContextManager[None]:
    """Let the results whose size depends on values be as large as they were when the node was recorded."""
    return result_given(node.target, lambda: pytree.tree_map_only(torch.Tensor, like, node.meta["val"]))
