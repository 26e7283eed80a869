"""Whether a new capture is a step that is captured already: the same in all, or in all but numbers.

Where only numbers differ (a temperature, a position in a queue), the schedule of the one is a schedule of the other: both run
the same operators on tensors of the same forms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import Joint, PlaceSlot
from remat_planner.tracer.record import same_graph

_NUMBERS = (bool, int, float, complex)


def same_step(one: Joint, other: Joint) -> bool:
    """Whether both captures compute the same, return the same Python values, and leave the same behind.

    Inputs without gradient may be one tensor in ``one`` and several in ``other``.
    """
    merged = _merged_inputs(one, other)
    return (
        merged is not None
        and _same_places(one, other)
        and same_graph(one.graph.graph, other.graph.graph, merged)
        and one.output_spec.spec == other.output_spec.spec
        and not any((*one.output_spec.templates, *other.output_spec.templates))
        and len(one.outputs) == len(other.outputs)
        and all(
            _same(a.constant, b.constant) and a.is_number == b.is_number
            for a, b in zip(one.outputs, other.outputs, strict=True)
        )
        and [(e.label, e.key) for e in one.effects.made] == [(e.label, e.key) for e in other.effects.made]
    )


def differ_in_numbers_only(one: Joint, other: Joint) -> bool:
    """Whether both captures run the same operators on tensors of the same forms; the numbers that they are given may differ.

    So may the generators that they draw from.
    """
    place: dict[fx.Node, int] = {}
    if len(one.graph.graph.nodes) != len(other.graph.graph.nodes):
        return False
    for position, pair in enumerate(zip(one.graph.graph.nodes, other.graph.graph.nodes, strict=True)):
        if _form(one, pair[0], place) != _form(other, pair[1], place):
            return False
        place |= dict.fromkeys(pair, position)
    return True


def _merged_inputs(one: Joint, other: Joint) -> dict[int, int] | None:
    """The placeholder that stands for each that is the same tensor in ``one``, by index; None where it requires a gradient."""
    placeholders = [*one.parameter_nodes, *one.buffer_nodes, *one.input_nodes]
    first_input = len(placeholders) - len(one.input_nodes)
    merged: dict[int, int] = {}
    for k, (first, of_other) in enumerate(zip(one.same_inputs, other.same_inputs, strict=True)):
        merged[first_input + k] = first_input + first if first >= 0 else -1 - first
        trained = any(g.owner == "input" and g.index in (k, first) for joint in (one, other) for g in joint.gradients)
        if first != of_other and (trained or first < 0):
            return None
    return merged


def _same_places(one: Joint, other: Joint) -> bool:
    """Whether both read the same places of Python state: equal graphs may stand for tensors of other places."""
    return len(one.buffers) == len(other.buffers) and all(
        a.is_same(b) for a, b in zip(one.buffers, other.buffers, strict=True) if isinstance(a, PlaceSlot)
    )


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or (type(one) is type(other) and bool(one == other))
    except Exception:  # objects that cannot be compared count as different
        return False


def _form(joint: Joint, node: fx.Node, place: dict[fx.Node, int]) -> Any:
    """What two nodes have in common that differ in numbers alone."""
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs), is_leaf=lambda leaf: isinstance(leaf, fx.Node))
    arguments = [
        ("node", place[leaf]) if isinstance(leaf, fx.Node) else "a number" if isinstance(leaf, _NUMBERS) else repr(leaf)
        for leaf in leaves
    ]
    value = getattr(joint.graph, str(node.target)) if node.op == "get_attr" else node.meta.get("val")
    tensors = [
        (leaf.shape, leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else type(leaf)
        for leaf in pytree.tree_leaves(value)
    ]
    called = node.target if node.op == "call_function" else node.op
    return called, node.meta.get("name"), node.meta.get("pinned"), arguments, str(spec), tensors
