"""The joint graph: one training step of a module as a functional ``torch.fx`` graph, with all that is needed to run it again.

Placeholders come in this order: parameters, buffers, tensor inputs, tangents (the gradients that arrive at the outputs). Nodes
stand in the order in which eager runs them, so the graph's own order has eager's peak. Every node carries in ``meta``:

    val        fake tensor(s) that it produces; storages of fake tensors alias as the real ones do
    name       stable name: module path + operator + running index
    module     path of the module that called it ("" at the top)
    source     "file:line" of the user's code that called it
    phase      "forward", or "backward" where it depends on a tangent
    auxiliary  True for forward work that only the backward needs
    random     True where it draws from a random generator
    pinned     why it must run exactly once, or None
    once       argument positions that a recomputation passes as None (running statistics that the first run updates)
    operator   index into ``Joint.operators`` of what eager runs for it; absent where the capture itself put it there
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.utils._pytree import TreeSpec

from remat_planner.tracer.joint.output_tree import TreeOfLeaves

Hooks = tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class StateSlot:
    """Where a parameter or buffer is found: ``owner._parameters[key]`` or ``owner._buffers[key]`` of the module at ``path``.

    Tied tensors have one slot, the first that ``module.modules()`` meets; ``aliases`` are the other full names.
    """

    path: str
    key: str
    kind: Literal["parameter", "buffer"]
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The full name, as in ``state_dict``."""
        return f"{self.path}.{self.key}" if self.path else self.key


@dataclass(frozen=True)
class OutputLeaf:
    """One leaf of the flattened output: a node, an input that is handed back as it is, or a plain Python value."""

    node: fx.Node | None = None
    constant: Any = None
    differentiable: bool = False


@dataclass(frozen=True)
class Gradient:
    """The gradient of a parameter or of a tensor input (``index`` into ``parameters`` or ``input_leaves``); None: no path.

    Where it is a sum, ``contributions`` are what eager's autograd adds up, in order, and ``sums`` the additions, last first.
    """

    owner: Literal["parameter", "input"]
    index: int
    node: fx.Node | None
    contributions: tuple[fx.Node, ...] = ()
    sums: tuple[fx.Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A storage of ``bytes``: there from operator number ``first`` through ``last``, and after that where it ``stays``."""

    bytes: int
    first: int
    last: int
    stays: bool


@dataclass(frozen=True)
class CapturedLoss:
    """The caller's loss, which runs between forward and backward and stays the caller's: captured for its bytes and its time.

    ``forward`` and ``backward`` are its ops in eager's order, nodes of a graph of their own, whose placeholders ``outputs`` are
    the output leaves that have a node (in that order) and which returns (loss, gradient for each of the joint's tangents).
    ``arrives`` has, for each output leaf, whether the loss sends a gradient to it. ``lifetimes`` are those of what it makes, by
    number of operator (``meta["operator"]`` of its nodes); the loss and the gradients stay.
    """

    graph: fx.GraphModule
    forward: tuple[fx.Node, ...]
    backward: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    arrives: tuple[bool, ...]
    lifetimes: tuple[Lifetime, ...]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator as eager runs it, before anything is made functional, merged or dropped.

    ``name`` is that of the overload ("aten.mm.default"), ``module`` the path of the module whose forward called it, and
    ``autograd_node`` the number of the autograd node whose backward ran it, None in the forward.
    """

    name: str
    module: str
    in_backward: bool
    autograd_node: int | None


@dataclass
class Joint:
    """One training step of ``model``, captured."""

    model: nn.Module
    graph: fx.GraphModule
    ops: tuple[fx.Node, ...]
    parameters: tuple[StateSlot, ...]
    buffers: tuple[StateSlot, ...]
    input_spec: TreeSpec
    input_leaves: tuple[int, ...]  # leaf index of each tensor input
    constant_leaves: tuple[Any, ...]  # the leaves, tensors replaced by None
    output_spec: TreeOfLeaves  # output = output_spec.unflatten(one Python value or tensor per entry of outputs)
    outputs: tuple[OutputLeaf, ...]
    parameter_nodes: tuple[fx.Node, ...]
    buffer_nodes: tuple[fx.Node, ...]
    input_nodes: tuple[fx.Node, ...]
    tangent_nodes: tuple[fx.Node, ...]
    tangent_outputs: tuple[int, ...]  # output leaf that each tangent arrives at
    gradients: tuple[Gradient, ...]
    loss: CapturedLoss | None
    constants: Mapping[str, tuple[int, ...]]  # bytes of each storage there before the step, by what it is: parameters, ...
    training: bool
    autocast: Mapping[str, str] = field(default_factory=dict)  # what the ambient torch.autocast casts to, by type of device
    guards: tuple[Guard, ...] = ()
    arrivals: tuple[int, ...] = ()  # ``gradients`` by their places there, in the order in which eager hands them over
    warnings: tuple[str, ...] = field(default=())
    operators: tuple[Operator, ...] = ()  # all that eager runs, in its order, but for the caller's loss
    calls: Mapping[str, int] = field(default_factory=dict)  # how often the forward calls each module, by its path
    hooks: Hooks = ()  # that were on its modules
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # Python values in its modules' attributes


@dataclass(frozen=True)
class Guard:
    """A Python number or bool that the forward read from a tensor (``mask.all()``), and that the capture took as given.

    ``evaluate(buffers, inputs)`` computes it again from the real buffers (as ``Joint.buffers``) and tensor inputs (as
    ``input_leaves``), before the step; where it no longer equals ``expected`` the capture does not hold for these inputs and
    another is needed. ``source`` is the line that read it.
    """

    evaluate: Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], bool | int | float]
    expected: bool | int | float
    source: str
