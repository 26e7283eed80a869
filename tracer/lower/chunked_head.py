"""The loss head of a model in chunks of rows: linear layer, logarithms of probabilities, loss, and their backward in one op.

Eager has the logits of all rows several times at once, where the backward begins: as the layer returned them, in float32, as
logarithms of probabilities, and their gradients. One op that takes some rows after the other needs them of these rows only
(``row_program``). It runs in the forward; the backward multiplies its gradients by the number that arrives. Sums over the rows
are made in parts, so the bits are others than eager's: the step takes this form only where the caller allows it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from remat_planner.tracer.joint import Joint, rewritten
from remat_planner.tracer.lower.head_path import Head, NotChunkedError, found_at, is_loss
from remat_planner.tracer.lower.row_chunks import in_row_chunks

_TIMES = ":times"
"""What follows the name of a gradient's op in that of the multiplication in its place."""


@dataclass(frozen=True)
class WholeHead:
    """A loss over classes that cannot be computed in chunks.

    Attributes:
        name: of its op.
        why: what is in the way, and what to do, in words.
    """

    name: str
    why: str


def heads(joint: Joint) -> tuple[list[Head], list[WholeHead]]:
    """The losses of ``joint`` that can be computed in chunks, and those that cannot."""
    found: list[Head] = []
    whole: list[WholeHead] = []
    for node in joint.ops:
        if is_loss(node):
            try:
                found.append(found_at(node, joint))
            except NotChunkedError as error:
                whole.append(WholeHead(node.meta["name"], str(error)))
    return found, whole


def with_heads_in_chunks(joint: Joint, chunks: Mapping[str, int]) -> Joint:
    """``joint`` with these of its ``heads``, by their name, in so many chunks. ``meta["wholes"]``: the nodes they replace."""
    chosen = [(head, chunks[head.name]) for head in heads(joint)[0] if head.name in chunks]
    if not chosen:
        return joint
    at = {head.loss: (head, count) for head, count in chosen}
    gone = {node: head for head, _ in chosen for node in head.replaced}
    graph = fx.Graph()
    node_of: dict[fx.Node, fx.Node] = {}
    ops: dict[fx.Node, tuple[fx.Node, ...]] = {}
    results: dict[Head, tuple[fx.Node, ...]] = {}
    for node in joint.graph.graph.nodes:
        if node in at:
            head, count = at[node]
            made = _in_chunks(graph, head, count, node_of)
            node_of[node], ops[node] = made[0], made
            results[head] = made
        elif node not in gone:
            node_of[node] = graph.node_copy(node, node_of.__getitem__)
            ops[node] = (node_of[node],)
        elif node is gone[node].total:
            node_of[node] = results[gone[node]][1]
        elif node in gone[node].gradients:
            place = gone[node].gradients.index(node)
            node_of[node] = _times(graph, gone[node], node, results[gone[node]][2 + place], node_of)
            ops[node] = (node_of[node],)
    calls = [call for node in joint.ops for call in ops.get(node, ())]
    return rewritten(joint, fx.GraphModule(joint.graph, graph), node_of, calls)


def _in_chunks(graph: fx.Graph, head: Head, count: int, node_of: Mapping[fx.Node, fx.Node]) -> tuple[fx.Node, ...]:
    """The op in the place of ``head``, and its results: the loss, then those of ``head.gradients``."""
    inputs, wholes = ([node_of[node] for node in nodes] for nodes in (head.inputs, head.wholes))
    op = graph.create_node("call_function", in_row_chunks(head.program), (inputs, wholes, count))
    replaced = (head.total, *head.gradients)
    fakes = tuple(torch.empty_like(node.meta["val"]) for node in replaced)
    op.meta = dict(head.loss.meta) | {
        "name": f"{head.name}:{count} chunks",
        "val": fakes,
        "wholes": head.computing,
        "inexact": f"the head in {count} chunks",
    }
    made = [op]
    for place, (node, fake) in enumerate(zip(replaced, fakes, strict=True)):
        result = graph.create_node("call_function", operator.getitem, (op, place))
        result.meta = dict(head.total.meta) | {"val": fake, "auxiliary": place > 0}
        result.meta["name"] = f"{head.name}:result {place}"
        result.meta.pop("shape", None)
        if "shape" in node.meta:
            result.meta["shape"] = node.meta["shape"]
        made.append(result)
    return tuple(made)


def _times(graph: fx.Graph, head: Head, node: fx.Node, gradient: fx.Node, node_of: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """The ``gradient`` of the head times the number that arrives, in the place of ``node``."""
    product = graph.create_node("call_function", torch.ops.aten.mul.Tensor, (gradient, node_of[head.arriving]))
    product.meta = dict(node.meta) | {"name": node.meta["name"] + _TIMES, "wholes": (node,)}
    return product
