"""Records the operators that a function runs on fake tensors, forward and backward, as an ``fx`` graph.

``torch.fx.experimental.proxy_tensor.make_fx`` does that for all uses of PyTorch, and takes twice the time of the fakes. A
capture needs no decompositions and no values of constants, and calls of modules are not patched here. Nodes have the names that
``make_fx`` gives them, which schedules show.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdRef

from remat_planner.tracer.leaves import tensors_in, with_leaves
from remat_planner.tracer.torch_private import FakeTensor, fake_in_use, is_fake, is_symbolic, without_modes
from remat_planner.tracer.torch_tracing import (
    TracingMode,
    compiled_functions_refused,
    graph_module,
    name_of_node,
    snapshot,
    tracing_interrupted,
    tracing_mode,
)
from remat_planner.tracer.torch_values import is_composite, run_composite

_PLAIN = (torch.Tensor, nn.Parameter, FakeTensor)
_LIFT = torch.ops.aten.lift_fresh.default
_COPY = torch.ops.aten.lift_fresh_copy.default


def trace(function: Callable[..., Any], *args: Any) -> fx.GraphModule:
    """Record the operators that ``function(*args)`` runs; ``args`` are fakes, in lists where there are many.

    The module takes the tensors of ``args`` one by one, and returns a list of the leaves of what the function returns. Each
    node has the fake that it makes in ``meta["val"]``. Other tensors that the function reads are constants of the module.
    """
    recorded = _Trace()
    for k, tensor in enumerate(pytree.tree_leaves(args)):
        recorded.hold(tensor, recorded.graph.placeholder(f"input_{k}"))
    with recorded, compiled_functions_refused():
        returned = pytree.tree_leaves(function(*args))
    recorded.graph.output([recorded.argument(leaf) for leaf in returned])
    return graph_module(recorded.root, recorded.graph)


def is_recording() -> bool:
    """Whether a trace is under way, and not interrupted: PyTorch's own code does so to compute forms."""
    return isinstance(tracing_mode(), _Trace)


def recorded_graph() -> fx.Graph:
    """The graph to which the running trace appends.

    Raises:
        RuntimeError: no trace is under way.
    """
    return _running().graph


def append_copy(node: fx.Node, value_of: Callable[[fx.Node], Any]) -> fx.Node:
    """Append the call of ``node``, of another graph, to the running trace without running it; what it makes is known.

    Args:
        node: the call.
        value_of: gives what stands for a node that it reads: a tensor, or a node of the running trace.
    """
    recorded = _running()
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: recorded.argument(value_of(read)))
    target: Any = node.target
    name = None if target is operator.getitem else _name(target)
    copied = recorded.call(target, args, kwargs, name)
    recorded.take_over(node, copied)
    return copied


def stand_for(node: fx.Node, tensor: torch.Tensor) -> fx.Node:
    """The node of the running trace that made ``tensor``; from now on it makes the known one of ``node``, of another graph."""
    recorded = _running()
    made: fx.Node = recorded.argument(tensor)
    recorded.take_over(node, made)
    if made.target is operator.getitem:
        several: Any = made.args[0]
        k: Any = made.args[1]
        values = list(several.meta["val"])
        values[k] = node.meta["val"]
        several.meta["val"] = tuple(values)
    return made


def detached(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor.detach()`` under the running trace, for which both are one tensor."""
    recorded = _running()
    with tracing_interrupted():
        alone = tensor.detach()
    recorded.identify(alone, recorded.argument(tensor))
    return alone


def _running() -> _Trace:
    recorded = tracing_mode()
    if not isinstance(recorded, _Trace):
        raise RuntimeError("no trace is under way")
    return recorded


def newest_node(graph: fx.Graph) -> fx.Node:
    """The last node of ``graph``, or its root, which stands before the first node, where it is empty."""
    return graph._root.prev


def nodes_after(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes behind ``node`` in its graph, in order."""
    root = node.graph._root
    node = node.next
    while node is not root:
        yield node
        node = node.next


class _Trace(TracingMode):  # type: ignore[no-untyped-call]
    """Appends each operator that runs to a graph.

    Attributes:
        graph: what has run.
        root: holds the constants.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.root = nn.Module()
        self._nodes: dict[int, tuple[WeakIdRef, fx.Node]] = {}  # by the tensor's id, which another one may get later
        self._constants: dict[int, tuple[torch.Tensor, str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].device if is_fake(args[0]) else func(*args, **kwargs)
        tensors = tensors_in((args, kwargs))
        if any(type(tensor) not in _PLAIN and self._node_of(tensor) is None for tensor in tensors):
            return NotImplemented  # their class calls operators on what they consist of
        if is_composite(func) and not _has_kernel(func, tensors):
            with self:
                return run_composite(func, *args, **kwargs)
        if torch.Tag.data_dependent_output in func.tags and not any(map(is_fake, tensors)):
            with without_modes():
                return func(*args, **kwargs)  # the values of other tensors are known
        run = _COPY if func is _LIFT else func  # a constant of the code may be changed in place after it was lifted
        recorded_args, recorded_kwargs = with_leaves((args, kwargs), self.argument)
        node = self.call(run, recorded_args, recorded_kwargs, _name(run))
        result = run(*args, **kwargs)
        self.hold(result, node)
        return result

    def call(self, target: Any, args: Any, kwargs: Any, name: str | None) -> fx.Node:
        """Append a call to the graph."""
        node = self.graph.create_node("call_function", target, args, kwargs, name=name)
        if target is _COPY and args[0].op == "get_attr":  # the fake mode takes the copy's memory for that of the constant
            args[0].meta["val"] = snapshot(getattr(self.root, args[0].target))
        return node

    def hold(self, value: Any, node: fx.Node) -> None:
        """``node`` makes ``value``, a tensor or several."""
        if isinstance(value, torch.Tensor):
            self.identify(value, node)
            node.meta["val"] = snapshot(value)
        elif isinstance(value, (tuple, list)):
            node.meta["val"] = snapshot(value)
            for k, item in enumerate(value):
                self.hold(item, self.graph.call_function(operator.getitem, (node, k)))
        elif is_symbolic(value):
            node.meta["val"] = value

    def identify(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """``node`` stands for ``tensor`` from now on."""
        self._nodes[id(tensor)] = WeakIdRef(tensor), node

    def take_over(self, known: fx.Node, node: fx.Node) -> None:
        """``node`` makes what ``known`` makes, a node of another graph."""
        if "val" in known.meta:
            node.meta["val"] = known.meta["val"]
            if isinstance(known.meta["val"], torch.Tensor):
                self.identify(known.meta["val"], node)

    def argument(self, leaf: Any) -> Any:
        """What stands for ``leaf`` in the graph."""
        if not isinstance(leaf, torch.Tensor):
            return leaf
        node = self._node_of(leaf)
        return self._constant(leaf) if node is None else node

    def _node_of(self, tensor: torch.Tensor) -> fx.Node | None:
        held = self._nodes.get(id(tensor))
        return held[1] if held is not None and held[0]() is tensor else None

    def _constant(self, tensor: torch.Tensor) -> fx.Node:
        if id(tensor) not in self._constants:
            kind = "_param_constant" if isinstance(tensor, nn.Parameter) else "_tensor_constant"
            name = f"{kind}{sum(name.startswith(kind) for _, name in self._constants.values())}"
            self._constants[id(tensor)] = tensor, name
            setattr(self.root, name, tensor)
        node = self.graph.get_attr(self._constants[id(tensor)][1])
        node.meta["val"] = snapshot(fake_in_use(tensor))
        return node


def _has_kernel(func: torch._ops.OpOverload, tensors: list[torch.Tensor]) -> bool:
    """Whether a composite operator has a kernel of its own on the device of its arguments, which autograd calls then."""
    if not tensors:
        return False
    key: Any = torch._C._dispatch_key_for_device(tensors[0].device.type)
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)  # type: ignore[no-untyped-call]


@cache
def _name(func: torch._ops.OpOverload) -> str:
    return name_of_node(func.overloadpacket.__name__)
