"""How the tensors of a program correspond to the outputs and gradients of the captured step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.utils import _pytree as pytree

from remat_planner.planner.codegen import Program, TensorLayout
from remat_planner.tracer.joint import Joint


@dataclass(frozen=True)
class Wiring:
    """A program, and what autograd must know of the captured step to run it.

    Attributes:
        program: the graphs.
        differentiable: for each tensor that the forward returns, whether it has an autograd history.
        incoming: for each of these tensors the gradients that the plan expects, as (layout, place in the store or None where no
            segment reads it). Several where the captured output held the tensor in several places; empty where the plan expects
            none.
        output_names: name of each of these tensors, for messages.
        unchanged_names: name of each entry of ``program.unchanged``, for messages.
    """

    program: Program
    differentiable: tuple[bool, ...]
    incoming: tuple[tuple[tuple[TensorLayout, int | None], ...], ...]
    output_names: tuple[str, ...]
    unchanged_names: tuple[str, ...]

    @cached_property
    def device(self) -> torch.device:
        """Where the step's gradients arrive: the first accelerator among them, else the CPU."""
        devices = (layout.device for expected in self.incoming for layout, _ in expected)
        return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))


def wire(joint: Joint, program: Program) -> Wiring:
    """The wiring of ``program``, which was emitted from ``joint``."""
    count = 1 + max((position for position in program.outputs if position is not None), default=-1)
    differentiable = [False] * count
    incoming: list[list[tuple[TensorLayout, int | None]]] = [[] for _ in range(count)]
    leaf_names = _leaf_names(joint)
    output_names = [""] * count
    for leaf, position, name in zip(joint.outputs, program.outputs, leaf_names, strict=True):
        if position is not None:
            differentiable[position] = differentiable[position] or leaf.differentiable
            output_names[position] = output_names[position] or name
    for node, leaf_index, place in zip(joint.tangent_nodes, joint.tangent_outputs, program.tangents, strict=True):
        position = program.outputs[leaf_index]
        assert position is not None
        incoming[position].append((TensorLayout.of(node.meta["val"]), place))
    state_nodes = (*joint.parameter_nodes, *joint.buffer_nodes)
    names = {
        node: f"{slot.kind} {slot.name}" for node, slot in zip(state_nodes, (*joint.parameters, *joint.buffers), strict=True)
    } | {node: f"input {node.name}" for node in joint.input_nodes}
    return Wiring(
        program=program,
        differentiable=tuple(differentiable),
        incoming=tuple(map(tuple, incoming)),
        output_names=tuple(output_names),
        unchanged_names=tuple(
            f"output {leaf_names[owner]}" if isinstance(owner, int) else names[owner] for _, owner in program.unchanged
        ),
    )


def _leaf_names(joint: Joint) -> list[str]:
    """The path of each output leaf, as in "['logits']"."""
    numbered = joint.output(list(range(len(joint.outputs))))
    names = [f"number {k}" for k in range(joint.returned)]
    names += [effect.label for effect in joint.effects.made for _ in range(effect.leaves)]
    try:
        paths = pytree.tree_flatten_with_path(numbered)[0]
    except ValueError:  # a container that was registered without the names of its entries
        return names
    for path, leaf in paths:
        if isinstance(leaf, int) and 0 <= leaf < len(names) and path:
            names[leaf] = pytree.keystr(path)
    return names
