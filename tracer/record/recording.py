"""TODO: ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import Operator, State, TreeOfLeaves
from remat_planner.tracer.record.module_attributes import SideEffects
from remat_planner.tracer.record.value_guards import KnownValues


@dataclass(frozen=True)
class Tangent:
    """A gradient that arrives at output leaf ``output``, laid out as ``stride`` says (elements)."""

    output: int
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """The call that is captured: ``model(*args, **kwargs)``, flattened to ``leaves``."""

    model: nn.Module
    state: State
    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec

    @property
    def input_leaves(self) -> tuple[int, ...]:
        """Places of the tensors among the leaves."""
        return tuple(i for i, leaf in enumerate(self.leaves) if isinstance(leaf, torch.Tensor))

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The tensors among the leaves."""
        return [self.leaves[i] for i in self.input_leaves]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Parameters, buffers, inputs: in the order of the joint graph's placeholders."""
        return [*self.state.parameters, *self.state.buffers, *self.inputs]

    @property
    def differentiated(self) -> list[tuple[Literal["parameter", "input"], int]]:
        """The parameters and inputs that require a gradient, by kind and index."""
        kinds: tuple[tuple[Literal["parameter", "input"], Sequence[torch.Tensor]], ...]
        kinds = (("parameter", self.state.parameters), ("input", self.inputs))
        return [(kind, i) for kind, tensors in kinds for i, t in enumerate(tensors) if t.requires_grad]

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``args`` and ``kwargs`` with ``tensors`` in the place of the inputs."""
        filled = list(self.leaves)
        for i, tensor in zip(self.input_leaves, tensors, strict=True):
            filled[i] = tensor
        return pytree.tree_unflatten(filled, self.spec)


@dataclass
class Recording:
    """The recorded step, before it is made functional.

    Placeholders of ``module``: parameters, buffers, inputs. It returns the tensor outputs (``tensor_outputs`` are their places
    among the leaves), then the gradients of what requires one. ``tangents`` are the names of the nodes that stand for the
    arriving gradients. ``operators`` are all that ran, in order, dead ones too.
    """

    module: fx.GraphModule
    constants: list[Any]  # the output leaves, tensors replaced by None
    differentiable: tuple[int, ...]
    output_spec: TreeOfLeaves
    tensor_outputs: tuple[int, ...]
    same_as: dict[int, tuple[str, int]]  # output leaf -> ("parameter" | "buffer" | "input", index) that it is
    tangents: tuple[tuple[str, Tangent], ...]
    operators: list[Operator]
    arrivals: tuple[int, ...]  # the gradients in the order in which eager hands them over
    edges: tuple[int, ...]  # for each gradient by how many edges of the autograd graph it comes together
    calls: Mapping[str, int]  # how often the forward calls each module, by its path
    known: KnownValues
    effects: SideEffects
