"""A recording as data: the call that is recorded, the gradients that arrive at its outputs, and the recorded step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import EagerOperator, GradientFlow, InputTree, ModuleState, Parts, TreeOfLeaves, first_places
from remat_planner.tracer.python_state import Change, ExecutedCode, Place
from remat_planner.tracer.record.value_guards import KnownValues


@dataclass(frozen=True)
class Tangent:
    """A gradient that arrives at output leaf ``output`` with strides ``stride`` (elements)."""

    output: int
    stride: tuple[int, ...]


@dataclass(frozen=True)
class CapturedCall:
    """The call that is captured: ``model(*args, **kwargs)``, flattened to ``leaves`` and their ``tree``."""

    model: nn.Module
    state: ModuleState
    leaves: tuple[Any, ...]
    tree: InputTree

    def with_places(self, found: Iterable[tuple[torch.Tensor, tuple[Place, ...]]]) -> CapturedCall:
        """This call, with the tensors that are ``found`` in places of Python state."""
        return replace(self, state=self.state.with_places(found))

    @property
    def input_leaves(self) -> tuple[int, ...]:
        """Indices of the tensors among the leaves."""
        return tuple(i for i, leaf in enumerate(self.leaves) if isinstance(leaf, torch.Tensor))

    @property
    def constant_leaves(self) -> tuple[Any, ...]:
        """The leaves, with None for tensors and for objects with tensors inside, which would stay allocated."""
        without = {*self.input_leaves, *(way.leaf for way in self.tree.inside)}
        return tuple(None if k in without else leaf for k, leaf in enumerate(self.leaves))

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The tensors among the leaves."""
        return [self.leaves[i] for i in self.input_leaves]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Parameters, buffers, inputs: in the order of the joint graph's placeholders."""
        return [*self.state.parameters, *self.state.buffers, *self.inputs]

    @property
    def same_inputs(self) -> tuple[int, ...]:
        """For each tensor input where the same tensor comes first, as ``first_places`` says."""
        return first_places(self.inputs, enumerate((*self.state.parameters, *self.state.buffers)))

    @property
    def differentiated(self) -> list[tuple[Literal["parameter", "input"], int]]:
        """The parameters and inputs that require a gradient, by kind and index; a tensor that comes again counts once."""
        first_times = [i for i, first in enumerate(self.same_inputs) if first == i]
        parameters, inputs = self.state.parameters, self.inputs
        return [
            *(("parameter", i) for i, t in enumerate(parameters) if t.requires_grad),
            *(("input", i) for i in first_times if inputs[i].requires_grad),
        ]

    def arguments(
        self, tensors: Sequence[torch.Tensor], put: Callable[[Parts], torch.Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any], Callable[[], None]]:
        """``args`` and ``kwargs`` with ``tensors`` in the place of the inputs, and what takes these out of objects again.

        ``put(parts)`` makes what comes in the place of a sparse or jagged tensor.
        """
        filled = list(self.leaves)
        for i, tensor in zip(self.input_leaves, tensors, strict=True):
            filled[i] = tensor
        return self.tree.call(filled, put)


@dataclass
class Recording:
    """The recorded step, before it becomes functional.

    Attributes:
        module: takes parameters, buffers, inputs; returns the tensor outputs, then the gradients of the parameters and inputs
            that require one.
        constants: the output leaves, tensors replaced by None.
        differentiable: indices of the output leaves that require a gradient.
        output_spec: how the leaves form the output.
        tensor_outputs: indices of the output leaves that are tensors.
        numbers: indices of those whose one number the forward reads and hands on.
        same_as: output leaf -> ("parameter" | "buffer" | "input", index) of the tensor that it is.
        tangents: names of the nodes that stand for the arriving gradients, with their descriptions.
        operators: all operators that ran, in order, dead ones too.
        arrivals: indices of the gradients in the order in which eager hands them over.
        arriving_strides: of each gradient as it arrives, by its index; autograd may leave a copy with other strides.
        flow: how gradients flow from the tangents; None where that is not known.
        edges: for each gradient, how many edges of the autograd graph contribute to it.
        calls: how often the forward calls each module, by its path.
        checkpointed: modules that the caller's own ``torch.utils.checkpoint`` runs again in the backward, by path.
        known: the values that the code may read, and the guards of those that it read.
        end: name of the last node of the forward.
        returned: number of leaves of the output; the leaves after them are tensors and values that the forward left in Python
            state.
        left_behind: these, as the forward left them.
        changes: of Python state, in order.
        executed: the Python code that the forward ran.
        argument_objects: where each object is that lies in the arguments, by its identity.
        argument_leaves: where the leaves are that are such objects, by index, those that were left behind too.
    """

    module: fx.GraphModule
    constants: list[Any]
    differentiable: tuple[int, ...]
    output_spec: TreeOfLeaves
    tensor_outputs: tuple[int, ...]
    numbers: frozenset[int]
    same_as: dict[int, tuple[str, int]]
    tangents: tuple[tuple[str, Tangent], ...]
    operators: list[EagerOperator]
    arrivals: tuple[int, ...]
    arriving_strides: Mapping[int, tuple[int, ...]]
    flow: GradientFlow | None
    edges: tuple[int, ...]
    calls: Mapping[str, int]
    checkpointed: tuple[str, ...]
    known: KnownValues
    end: str
    returned: int
    left_behind: list[Any]
    changes: list[Change]
    executed: ExecutedCode
    argument_objects: Mapping[int, Place]
    argument_leaves: Mapping[int, Place]

    @property
    def node_of_leaf(self) -> dict[int, Any]:
        """What computes each output leaf that is a tensor, by its index: a node of the graph, or None."""
        returned = pytree.tree_leaves(self.module.graph.output_node().args[0], is_leaf=lambda leaf: leaf is None)
        return dict(zip(self.tensor_outputs, returned, strict=False))
