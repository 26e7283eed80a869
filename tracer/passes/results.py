"""What a joint graph takes and returns: its placeholders by kind, and outputs and gradients as eager returns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import ModuleState
from remat_planner.tracer.passes.gradient_layout import laid_out_as_owners
from remat_planner.tracer.record import CapturedCall, Recording


@dataclass(frozen=True)
class Placeholders:
    """The placeholders of a joint graph, by kind."""

    parameters: list[fx.Node]
    buffers: list[fx.Node]
    inputs: list[fx.Node]
    tangents: list[fx.Node]

    @classmethod
    def of(cls, graph: fx.Graph, call: CapturedCall) -> Placeholders:
        """Those of the graph that was recorded of ``call``."""
        nodes = [node for node in graph.nodes if node.op == "placeholder"]
        buffers = len(call.state.parameters)
        inputs = buffers + len(call.state.buffers)
        tangents = inputs + len(call.inputs)
        return cls(nodes[:buffers], nodes[buffers:inputs], nodes[inputs:tangents], nodes[tangents:])

    def of_kind(self, kind: str) -> list[fx.Node]:
        """Those of kind "parameter", "buffer" or "input"."""
        return {"parameter": self.parameters, "buffer": self.buffers, "input": self.inputs}[kind]

    def in_words(self, state: ModuleState) -> dict[fx.Node, str]:
        """What each holds, but for the tangents: "buffer norm.running_mean"."""
        return {
            **{node: f"parameter {slot.name}" for node, slot in zip(self.parameters, state.parameter_slots, strict=True)},
            **{node: f"{slot.kind} {slot.name}" for node, slot in zip(self.buffers, state.buffer_slots, strict=True)},
            **{node: f"input {i}" for i, node in enumerate(self.inputs)},
        }


def return_as_autograd(graph: fx.Graph, placeholders: Placeholders, call: CapturedCall, recording: Recording) -> None:
    """Return outputs and gradients as eager does: inputs themselves rather than copies, gradients in their owners' layout."""
    returned = pytree.tree_leaves(graph.output_node().args[0], is_leaf=lambda x: x is None)
    n_outputs = len(recording.tensor_outputs)
    outputs = [
        placeholders.of_kind(recording.same_as[i][0])[recording.same_as[i][1]] if i in recording.same_as else node
        for i, node in zip(recording.tensor_outputs, returned[:n_outputs], strict=True)
    ]
    gradients = laid_out_as_owners(
        graph,
        returned[n_outputs:],
        [
            _laid_out(kind, i, call, recording.arriving_strides.get(k), placeholders)
            for k, (kind, i) in enumerate(call.differentiated)
        ],
        outside=[*outputs, *(node for node in graph.nodes if node.op == "placeholder")],
    )
    graph.output_node().args = ((tuple(outputs), tuple(gradients)),)


def _laid_out(
    kind: str, i: int, call: CapturedCall, strides: tuple[int, ...] | None, placeholders: Placeholders
) -> torch.Tensor:
    """A tensor that lies as the gradient of this parameter or input has to: its owner, but for one that an operator made.

    Autograd passes the gradient of such an input on as it is, with the ``strides`` with which it arrives.
    """
    owner = (call.state.parameters if kind == "parameter" else call.inputs)[i]
    fake: torch.Tensor = placeholders.of_kind(kind)[i].meta["val"]  # its sizes may be symbols
    if owner.is_leaf or strides is None:
        return fake
    return torch.empty_strided(fake.shape, strides, dtype=owner.dtype, device="meta")


def returned_by(graph: fx.Graph) -> tuple[list[fx.Node], list[fx.Node | None]]:
    """The nodes of the tensor outputs and of the gradients."""
    pair: Any = graph.output_node().args[0]
    return list(pair[0]), list(pair[1])
