"""Running a joint graph op by op, everything kept: the plainest way to check a capture against eager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer import Joint


@dataclass
class Replayed:
    """What one step of a joint graph gives."""

    output: Any
    loss: torch.Tensor
    parameter_gradients: dict[str, torch.Tensor | None]
    input_gradients: list[torch.Tensor | None]
    values: dict[fx.Node, Any]


def replay(
    joint: Joint, args: tuple[Any, ...], kwargs: dict[str, Any], loss_of_output: Callable[[Any], torch.Tensor]
) -> Replayed:
    """Run the joint graph's forward, the caller's loss in eager, then the backward, on the model's real tensors."""
    tensors = dict(joint.model.named_parameters(remove_duplicate=False)) | dict(
        joint.model.named_buffers(remove_duplicate=False)
    )
    leaves = pytree.tree_leaves((args, kwargs))
    values: dict[fx.Node, Any] = {}
    for node, slot in zip((*joint.parameter_nodes, *joint.buffer_nodes), (*joint.parameters, *joint.buffers), strict=True):
        values[node] = tensors[slot.name].detach()
    for node, place in zip(joint.input_nodes, joint.input_leaves, strict=True):
        values[node] = leaves[place].detach()
    for node in joint.graph.graph.nodes:
        if node.op == "get_attr":
            values[node] = getattr(joint.graph, node.target)

    def run(in_backward: bool) -> None:
        with torch.no_grad():
            for node in joint.ops:
                if node.meta["in_backward"] == in_backward:
                    a, k = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                    if (position := node.meta.get("factor")) is not None:
                        a = (*a[:position], float(a[position]), *a[position + 1 :])
                    values[node] = node.target(*a, **k)

    run(in_backward=False)
    outputs = [
        leaf.constant if leaf.node is None else values[leaf.node].detach().requires_grad_(leaf.differentiable)
        for leaf in joint.outputs
    ]
    output = joint.output(outputs)
    loss = loss_of_output(output)
    arriving = torch.autograd.grad(loss, [outputs[i] for i in joint.tangent_outputs])
    values.update(zip(joint.tangent_nodes, arriving, strict=True))
    run(in_backward=True)
    gradients = [None if g.node is None else values[g.node] for g in joint.gradients]
    return Replayed(
        output=output,
        loss=loss.detach(),
        parameter_gradients={
            joint.parameters[g.index].name: t for g, t in zip(joint.gradients, gradients, strict=True) if g.owner == "parameter"
        },
        input_gradients=[t for g, t in zip(joint.gradients, gradients, strict=True) if g.owner == "input"],
        values=values,
    )
