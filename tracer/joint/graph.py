"""The joint graph: one training step of a module as a functional ``torch.fx`` graph, with everything needed to run it again.

Placeholders come in this order: parameters, buffers, tensor inputs, tangents (the gradients that arrive at the outputs). Nodes
stand in the order in which eager runs them, so the graph's own order has eager's peak. Every node carries in ``meta``:

    val         fake tensor(s) that it produces; the storages of fakes alias as the real ones do
    name        stable name: module path + operator + running index
    module      path of the module that called it ("" at the top)
    source      "file:line" of the user's code that called it
    in_backward True where eager runs it in the backward
    phase       "forward", or "backward" where it depends on a tangent
    auxiliary   True for forward work that only the backward needs
    random      True where it draws from a random generator
    generator   the ``torch.Generator`` that it draws from; absent where it is the default one of the device
    pinned      why it must run exactly once, or None
    repeats     True where a call of somebody else's operator was seen to give the same when it runs again; else absent
    once        argument positions that a recomputation passes as None (running statistics that the first run updates)
    factor      position of the argument of a batch normalisation that a node computes, one over its counter; else absent
    operator    index into ``Joint.operators`` of the eager operator behind it; absent where the capture added the node
    memory       number of the storage of eager in which its result lies; absent where that is its own
    adds_to_view  True for a sum in the backward whose first term is a view in eager
    wholes      the nodes that this one, or this one and another, replace (``tracer.lower.variants``); mostly absent
    over        position of the argument in whose memory the node leaves its result; mostly absent
    inexact     how it rounds otherwise than the nodes that it replaces, in words; mostly absent
    apart       nodes with another value here are not the same computation, though they compute the same; mostly absent
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import fx, nn

from remat_planner.tracer.joint.captured_loss import CapturedLoss
from remat_planner.tracer.joint.effects import Effects
from remat_planner.tracer.joint.gradient_flow import GradientFlow
from remat_planner.tracer.joint.guards import Guards
from remat_planner.tracer.joint.input_tree import InputTree
from remat_planner.tracer.joint.module_state import BufferSlot, StateSlot
from remat_planner.tracer.joint.output_tree import TreeOfLeaves
from remat_planner.tracer.joint.recorded_forward import RecordedForward
from remat_planner.tracer.joint.undo import Undo
from remat_planner.tracer.python_state import Place, PythonReads


class Hook(NamedTuple):
    """A hook on a module.

    Attributes:
        path: of the module.
        registry: name of the module's attribute that holds it.
        function: the hook itself.
        options: those with which it is registered (with_kwargs, always_call).
    """

    path: str
    registry: str
    function: Callable[..., Any]
    options: tuple[bool, ...] = ()


@dataclass(frozen=True)
class OutputLeaf:
    """One leaf of the flattened output: a node (an input's, where the model returns that input), or a Python value.

    Attributes:
        node: the node; None for a value.
        constant: the value.
        differentiable: whether the leaf requires a gradient.
        place: where the value is in the arguments of each call, if it is an object that lies there.
        is_number: the forward hands on the one number in the node's tensor, as ``item`` reads it.
    """

    node: fx.Node | None = None
    constant: Any = None
    differentiable: bool = False
    place: Place | None = None
    is_number: bool = False


@dataclass(frozen=True)
class Gradient:
    """The gradient of a parameter or of a tensor input.

    Attributes:
        owner: what it belongs to.
        index: the owner's index in ``Joint.parameters`` or ``Joint.input_leaves``.
        node: its node; None where no gradient reaches the owner.
        contributions: the terms that eager's autograd adds up, in order; empty where it is no sum.
        sums: the additions, last first.
    """

    owner: Literal["parameter", "input"]
    index: int
    node: fx.Node | None
    contributions: tuple[fx.Node, ...] = ()
    sums: tuple[fx.Node, ...] = ()


@dataclass(frozen=True, slots=True)
class EagerOperator:
    """One operator as eager runs it, before the step is made functional and simplified.

    Attributes:
        name: name of the overload ("aten.mm.default").
        module: path of the module whose forward called it.
        in_backward: it runs in the backward.
        autograd_node: number of the autograd node whose backward runs it; None in the forward.
    """

    name: str
    module: str
    in_backward: bool
    autograd_node: int | None


@dataclass
class Joint:
    """One training step of ``model``, captured.

    Attributes:
        model: the module.
        graph: the joint graph; it returns (tensor outputs, gradients).
        ops: its calls, in order.
        parameters: slot of each parameter, in the order of ``parameter_nodes``.
        buffers: slot of each buffer, then of each tensor that the forward reads in Python state, as ``buffer_nodes``.
        input_tree: the structure of ``(args, kwargs)``.
        input_leaves: index among the input leaves of each tensor, in the order of ``input_nodes``.
        constant_leaves: the input leaves, with None for tensors and for objects with tensors inside.
        output_spec: how the first ``returned`` of ``outputs`` form the output.
        outputs: the leaves of the output.
        parameter_nodes: placeholders of the parameters.
        buffer_nodes: placeholders of the buffers.
        input_nodes: placeholders of the tensor inputs.
        tangent_nodes: placeholders of the gradients that arrive at outputs.
        tangent_outputs: index in ``outputs`` at which each tangent arrives.
        gradients: what the step returns for parameters and inputs that require a gradient.
        loss: the caller's loss; None where the caller passes none.
        constants: bytes of each storage that is resident before the step, by kind ("parameters", "buffers", "inputs",
            "constants"); a storage counts once, under the first kind, but an input without gradient as often as it is given.
        training: mode of ``model``.
        autocast: what the ambient ``torch.autocast`` casts to, by device type.
        switches: the settings of torch that decided which operators the forward ran (``tracer.record.switches``).
        guards: what the forward read from buffers and inputs.
        arrivals: indices in ``gradients``, in the order in which eager's autograd releases them.
        flow: how gradients flow from the tangents; None where that is not known.
        operators: all operators that eager runs, in order, without those of the caller's loss.
        calls: how often the forward calls each module, by path.
        checkpointed: modules that the caller's own ``torch.utils.checkpoint`` runs again in the backward, by path.
        hooks: hooks on the model's modules at capture.
        reads: the Python state that the forward can read.
        effects: what the forward leaves behind in Python state.
        updated: what the forward writes to in place (buffers, inputs), in words.
        returned: number of ``outputs`` that form the output; those after them are what ``effects`` sets.
        same_inputs: for each tensor input where the same tensor comes first, as ``first_places`` says.
        undo: what to put back where a check ends the forward; None where it has no checks.
        forward: the forward as it was recorded, to compare later recordings with.
        argument_states: for each input leaf that is an object, what it held at capture; None for the others.
        attributes: the value of each attribute of a module that the step has as a number of this call, by path and name.
    """

    model: nn.Module
    graph: fx.GraphModule
    ops: tuple[fx.Node, ...]
    parameters: tuple[StateSlot, ...]
    buffers: tuple[BufferSlot, ...]
    input_tree: InputTree
    input_leaves: tuple[int, ...]
    constant_leaves: tuple[Any, ...]
    output_spec: TreeOfLeaves
    outputs: tuple[OutputLeaf, ...]
    parameter_nodes: tuple[fx.Node, ...]
    buffer_nodes: tuple[fx.Node, ...]
    input_nodes: tuple[fx.Node, ...]
    tangent_nodes: tuple[fx.Node, ...]
    tangent_outputs: tuple[int, ...]
    gradients: tuple[Gradient, ...]
    loss: CapturedLoss | None
    constants: Mapping[str, tuple[int, ...]]
    training: bool
    autocast: Mapping[str, str] = field(default_factory=dict)
    switches: tuple[Any, ...] = ()
    guards: Guards = field(default_factory=Guards)
    arrivals: tuple[int, ...] = ()
    flow: GradientFlow | None = None
    operators: tuple[EagerOperator, ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    checkpointed: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    reads: PythonReads = field(default_factory=PythonReads)
    effects: Effects = field(default_factory=Effects)
    updated: tuple[str, ...] = ()
    returned: int = 0
    same_inputs: tuple[int, ...] = ()
    argument_states: tuple[Any, ...] = ()
    attributes: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    undo: Undo | None = None
    forward: RecordedForward = field(default_factory=RecordedForward)

    def output(self, values: Sequence[Any]) -> Any:
        """The output, of one tensor or Python value for each of ``outputs``."""
        return self.output_spec.unflatten(values[: self.returned])
