"""Whether the next step would be the captured one, where a forward leaves something behind in Python attributes.

The step is recorded once more from what it left. What goes on changing, or changes the graph, would be lost by a capture: a
counter, a flag, what an earlier step remembered. What settles (a cache that is filled at its first use), and what nothing reads
in a later step (a loss kept for whoever asks), may stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.errors import CaptureError
from remat_planner.tracer.record.module_attributes import as_left
from remat_planner.tracer.record.recording import Recording


def lost_from_step_to_step(first: Recording, record_again: Callable[[], Recording]) -> list[str]:
    """Names of the attributes that would be another in the next step, and matter or may matter to it.

    Not of those that held a tensor before: where it was read, it is a constant of the graph, which is refused there.
    """
    effects = first.effects
    if not effects.left:
        return []
    try:
        with as_left(effects):
            second = record_again()
        again = second.effects
    except CaptureError:  # what was left behind is in the way of the next step
        lost = [*effects.values, *effects.stored]
    else:
        lost = again.values
        if not same_graph(first.module.graph, second.module.graph):
            lost = [*effects.values, *again.values, *again.stored]
    held_a_tensor = effects.reassigned.values()
    return list(dict.fromkeys(name for name in lost if name not in held_a_tensor))


def same_graph(one: fx.Graph, other: fx.Graph) -> bool:
    """Whether two recordings have the same operators on the same values."""
    place: dict[fx.Node, int] = {}
    if len(one.nodes) != len(other.nodes):
        return False
    for position, pair in enumerate(zip(one.nodes, other.nodes, strict=True)):
        place |= dict.fromkeys(pair, position)
        if pair[0].op != pair[1].op or _value(pair[0], place) != _value(pair[1], place):
            return False
    return True


def _value(node: fx.Node, place: dict[fx.Node, int]) -> Any:
    if node.op == "get_attr":
        return _constant(getattr(node.graph.owning_module, str(node.target)))
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs), is_leaf=lambda leaf: isinstance(leaf, fx.Node))
    arguments = [("node", place[leaf]) if isinstance(leaf, fx.Node) else ("value", repr(leaf)) for leaf in leaves]
    return node.target if node.op == "call_function" else None, arguments, spec


def _constant(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or type(value) is not torch.Tensor:
        return id(value)
    return value.dtype, value.shape, value.tolist()
