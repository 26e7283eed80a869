"""TODO: ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.utils import _pytree as pytree

from remat_planner.planner.codegen import IncomingForm, Program
from remat_planner.tracer.joint import Joint


def wire(joint: Joint, program: Program) -> Wiring:
    n = 1 + max((p for p in program.outputs if p is not None), default=-1)
    differentiable = [False] * n
    incoming: list[list[tuple[IncomingForm, int | None]]] = [[] for _ in range(n)]
    names = _output_names(joint)
    output_names = [""] * n
    for leaf, position, name in zip(joint.outputs, program.outputs, names, strict=True):
        if position is not None:
            differentiable[position] = differentiable[position] or leaf.differentiable
            output_names[position] = output_names[position] or name
    for node, leaf_index, place in zip(joint.tangent_nodes, joint.tangent_outputs, program.tangents, strict=True):
        position = program.outputs[leaf_index]
        assert position is not None
        incoming[position].append((IncomingForm.of(node.meta["val"]), place))
    state_names = {
        node: f"{slot.kind} {slot.name}"
        for node, slot in zip((*joint.parameter_nodes, *joint.buffer_nodes), (*joint.parameters, *joint.buffers), strict=True)
    }
    input_names = {node: f"input {node.name}" for node in joint.input_nodes}
    return Wiring(
        program=program,
        differentiable=tuple(differentiable),
        incoming=tuple(map(tuple, incoming)),
        output_names=tuple(output_names),
        unchanged_names=tuple(
            f"output {names[behind]}" if isinstance(behind, int) else (state_names | input_names)[behind]
            for _, behind in program.unchanged
        ),
    )


def _output_names(joint: Joint) -> list[str]:
    """The place of each output leaf, as in "['logits']"."""
    numbered = joint.output_spec.unflatten(list(range(len(joint.outputs))))
    names = [f"number {k}" for k in range(len(joint.outputs))]
    try:
        paths = pytree.tree_flatten_with_path(numbered)[0]
    except ValueError:  # a container that was registered without the names of its entries
        return names
    for path, leaf in paths:
        if isinstance(leaf, int) and 0 <= leaf < len(names) and path:
            names[leaf] = pytree.keystr(path)
    return names


@dataclass(frozen=True)
class Wiring:
    """What a program's run needs to know of the captured step.

    Attributes:
        program: the graphs.
        differentiable: for each tensor that the forward returns, whether it has an autograd history.
        incoming: for each of them the gradients that the plan expects, as (form, place in the store or None where nothing reads
            it); several where the captured output had the same tensor in several places, empty where it expects none.
        output_names: a name of each of them, for messages.
        unchanged_names: a name for each entry of ``program.unchanged``.
    """

    program: Program
    differentiable: tuple[bool, ...]
    incoming: tuple[tuple[tuple[IncomingForm, int | None], ...], ...]
    output_names: tuple[str, ...]
    unchanged_names: tuple[str, ...]

    @cached_property
    def device(self) -> torch.device:
        """Where the step's gradients arrive: the first accelerator among them, else the CPU."""
        devices = (form.device for expected in self.incoming for form, _ in expected)
        return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
