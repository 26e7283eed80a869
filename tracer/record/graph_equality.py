"""Whether two graphs compute the same: the same operators on the same values, in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.leaves import hashable_form, leaves_of
from remat_planner.tracer.torch_private import generator_key, number_of


def same_graph(one: fx.Graph, other: fx.Graph, merged: Mapping[int, int] = MappingProxyType({})) -> bool:
    """Whether two recordings have the same operators on the same values.

    ``merged`` says which placeholder stands for another one, both by index.
    """
    place: dict[fx.Node, int] = {}
    if len(one.nodes) != len(other.nodes):
        return False
    for position, pair in enumerate(zip(one.nodes, other.nodes, strict=True)):
        place |= dict.fromkeys(pair, merged.get(position, position))
        if pair[0].op != pair[1].op or _value(pair[0], place) != _value(pair[1], place):
            return False
    return True


def starts_with(whole: fx.Graph, beginning: fx.Graph) -> bool:
    """Whether ``whole`` begins with all operators of ``beginning``, and returns first what ``beginning`` returns.

    Constants are compared where they are used: one that is returned alone comes last in both graphs.
    """
    constants = {node: _value(node, {}) for graph in (whole, beginning) for node in graph.find_nodes(op="get_attr")}
    place: dict[fx.Node, Any] = {**constants}
    found, nodes = ([node for node in graph.nodes if node.op not in ("get_attr", "output")] for graph in (whole, beginning))
    if len(found) < len(nodes):
        return False
    for position, pair in enumerate(zip(found, nodes, strict=False)):
        place |= dict.fromkeys(pair, position)
        if pair[0].op != pair[1].op or _value(pair[0], place) != _value(pair[1], place):
            return False
    returned, expected = (leaves_of(graph.output_node().args[0]) for graph in (whole, beginning))
    return [place.get(node) for node in returned[: len(expected)]] == [place.get(node) for node in expected]


def _value(node: fx.Node, place: dict[fx.Node, int]) -> Any:
    """What the node computes, with its arguments by their positions; equal for equal nodes of two graphs."""
    if node.op == "get_attr":
        return _constant(getattr(node.graph.owning_module, str(node.target)))
    arguments = hashable_form(
        (node.args, node.kwargs),
        lambda leaf: ("node", place[leaf]) if isinstance(leaf, fx.Node) else ("value", repr(number_of(leaf))),
    )
    generator = node.meta.get("generator")
    drawn_from = None if generator is None else generator_key(generator)
    return node.target if node.op == "call_function" else None, arguments, drawn_from


def _constant(value: Any) -> Any:
    """Something that is equal for equal constants: of a plain tensor its elements, of any other object its identity."""
    if type(value) is not torch.Tensor or value.layout is not torch.strided:
        return id(value)
    return value.dtype, value.shape, repr(value.tolist())  # NaN equals itself here, and 0.0 is not -0.0
