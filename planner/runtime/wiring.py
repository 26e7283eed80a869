"""How the tensors of a program correspond to the outputs and gradients of the captured step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.planner.codegen import Program, TensorLayout
from remat_planner.tracer.joint import Joint, is_size


class Expected(NamedTuple):
    """A gradient that the plan expects at an output.

    Attributes:
        layout: how it lies in memory.
        place: in the store; None where no segment reads it.
        tangent: its index in ``Joint.tangent_nodes``.
    """

    layout: TensorLayout
    place: int | None
    tangent: int


class OutputNode(NamedTuple):
    """Outputs that have one autograd node, since the same gradients depend on them.

    Attributes:
        positions: of the outputs among the tensors that the forward returns.
        chains: the program's handovers that begin with their gradients, the first of each chain.
    """

    positions: tuple[int, ...]
    chains: tuple[int, ...]


@dataclass(frozen=True)
class Wiring:
    """A program, and what autograd must know of the captured step to run it.

    Attributes:
        program: the graphs.
        nodes: the autograd nodes of the tensors that the forward returns; those without a node have no history.
        incoming: for each of these tensors the gradients that the plan expects: several where the captured output held the
            tensor in several places, none where the plan expects none.
        read_inside: the tensors, by position, from which the forward computes others that have a history.
        output_names: name of each of these tensors, for messages.
        unchanged_names: name of each entry of ``program.unchanged``, for messages.
    """

    program: Program
    nodes: tuple[OutputNode, ...]
    incoming: tuple[tuple[Expected, ...], ...]
    read_inside: tuple[int, ...]
    output_names: tuple[str, ...]
    unchanged_names: tuple[str, ...]

    @cached_property
    def device(self) -> torch.device:
        """Where the step's gradients arrive: the first accelerator among them, else the CPU."""
        devices = (one.layout.device for expected in self.incoming for one in expected)
        return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))

    @cached_property
    def unchanged_places(self) -> tuple[int, ...]:
        """The place in the store of each entry of ``program.unchanged``."""
        return tuple(place for place, _ in self.program.unchanged)

    @cached_property
    def token(self) -> torch.Tensor:
        """The gradient of a link between two autograd nodes: nothing, but there."""
        return torch.empty(0, device=self.device)

    def of_sizes(self, program: Program, forms: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Wiring:
        """The same wiring of ``program``, the code for other sizes; ``forms`` are shape and strides of each tangent."""
        incoming = (
            tuple(one._replace(layout=one.layout.of_size(*forms[one.tangent])) for one in expected)
            for expected in self.incoming
        )
        return replace(self, program=program, incoming=tuple(incoming))


def wire(joint: Joint, program: Program) -> Wiring:
    """The wiring of ``program``, which was emitted from ``joint``."""
    count = 1 + max((position for position in program.outputs if position is not None), default=-1)
    differentiable = [False] * count
    incoming: list[list[Expected]] = [[] for _ in range(count)]
    leaf_names = _leaf_names(joint)
    output_names = [""] * count
    for leaf, position, name in zip(joint.outputs, program.outputs, leaf_names, strict=True):
        if position is not None:
            differentiable[position] = differentiable[position] or leaf.differentiable
            output_names[position] = output_names[position] or name
    tangents = zip(joint.tangent_nodes, joint.tangent_outputs, program.tangents, strict=True)
    for tangent, (node, leaf_index, place) in enumerate(tangents):
        position = program.outputs[leaf_index]
        assert position is not None
        incoming[position].append(Expected(TensorLayout.of(node.meta["val"]), place, tangent))
    state_nodes = (*joint.parameter_nodes, *joint.buffer_nodes)
    names = {
        node: f"{slot.kind} {slot.name}" for node, slot in zip(state_nodes, (*joint.parameters, *joint.buffers), strict=True)
    } | {node: f"input {node.name}" for node in joint.input_nodes}
    return Wiring(
        program=program,
        nodes=_nodes(program, [k for k, has_history in enumerate(differentiable) if has_history], incoming),
        incoming=tuple(map(tuple, incoming)),
        read_inside=_read_inside(joint, program.outputs),
        output_names=tuple(output_names),
        unchanged_names=tuple(
            f"output {leaf_names[owner]}" if isinstance(owner, int) else names[owner] for _, owner in program.unchanged
        ),
    )


def _read_inside(joint: Joint, positions: Sequence[int | None]) -> tuple[int, ...]:
    """The positions of the differentiable outputs on which other ones depend."""
    outputs = {leaf.node: k for leaf, k in zip(joint.outputs, positions, strict=True) if leaf.differentiable and leaf.node}
    reached: set[fx.Node] = set()  # nodes on which an output depends that they are not
    for node in reversed(joint.graph.graph.nodes):
        if any(user in outputs or user in reached for user in node.users):
            reached.add(node)
    return tuple(sorted(k for node, k in outputs.items() if k is not None and node in reached))


def _nodes(program: Program, outputs: Sequence[int], incoming: Sequence[Sequence[Expected]]) -> tuple[OutputNode, ...]:
    """Group ``outputs`` by the chains of handovers that a gradient at them begins."""
    sets = [handover.tangents for handover in program.handovers]
    firsts = [k for k, tangents in enumerate(sets) if tangents not in sets[:k]]
    together: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for position in outputs:
        tangents = {expected.tangent for expected in incoming[position]}
        chains = tuple(k for k in firsts if tangents & sets[k] or not tangents)
        together[chains or tuple(firsts)].append(position)
    return tuple(OutputNode(tuple(positions), chains) for chains, positions in together.items())


def _leaf_names(joint: Joint) -> list[str]:
    """The path of each output leaf, as in "['logits']"."""
    numbered = joint.output(list(range(len(joint.outputs))))
    names = [f"number {k}" for k in range(joint.returned)]
    names += [effect.label for effect in joint.effects.made for _ in range(effect.leaves)]
    try:
        paths = pytree.tree_flatten_with_path(numbered, is_leaf=is_size)[0]
    except ValueError:  # a container that was registered without the names of its entries
        return names
    for path, leaf in paths:
        if isinstance(leaf, int) and 0 <= leaf < len(names) and path:
            names[leaf] = pytree.keystr(path)
    return names
