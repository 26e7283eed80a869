"""The backward of a ReLU whose result only a max pooling reads, ahead of the pooling's backward.

Eager spreads the gradient over the large picture, and then sets it to 0 where the ReLU's result is 0. The gradient lands where
the greatest results are, and these are what the pooling returned: set to 0 there beforehand, it lands with the same bits. The
ReLU's result, which is often the largest of the step, need then be neither retained nor recomputed for its backward.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from remat_planner.schedules import Graph
from remat_planner.tracer.costs import same_bits_in_parts
from remat_planner.tracer.joint import Joint, rewritten

_aten = torch.ops.aten
_relu_backward = _aten.threshold_backward.default
_FORWARD_OF = {
    _aten.max_pool2d_with_indices_backward.default: _aten.max_pool2d_with_indices.default,
    _aten.max_pool3d_with_indices_backward.default: _aten.max_pool3d_with_indices.default,
    _aten.adaptive_max_pool2d_backward.default: _aten.adaptive_max_pool2d.default,
    _aten.adaptive_max_pool3d_backward.default: _aten.adaptive_max_pool3d.default,
}
"""The backward of each pooling, which takes the gradient, the pooling's input and, last, the indices."""
_SUFFIX = ":after"


@dataclass(frozen=True)
class PooledRelu:
    """Nodes that belong together.

    Attributes:
        pooling: the max pooling of the forward.
        pooled: what it returned.
        pool: its backward.
        relu: the backward of the ReLU before it, which reads the gradient that ``pool`` makes and what ``pooling`` read.
    """

    pooling: fx.Node
    pooled: fx.Node
    pool: fx.Node
    relu: fx.Node

    @property
    def name(self) -> str:
        """The name of the pooling's backward where it comes second."""
        return str(self.pool.meta["name"]) + _SUFFIX


def pooled_relus(joint: Joint) -> list[PooledRelu]:
    """Where the backward of a ReLU can come before that of the pooling."""
    kept = {node for g in joint.gradients for node in (g.node, *g.contributions, *g.sums) if node is not None}
    found = (_found_at(node) for node in joint.ops if node.target in _FORWARD_OF)
    return [pair for pair in found if pair is not None and not kept & {pair.pool, pair.relu}]


def has_same_bits_exchanged(pair: PooledRelu) -> bool:
    """Whether the gradient has the same bits when the ReLU's backward comes first, on this device, which runs both.

    Raises:
        tracer.costs.DeviceNotAtHandError: its device is not here.
    """
    pooling: Any = pair.pooling.target
    backward: Any = pair.pool.target
    options, others = pair.pooling.args[1:], pair.pool.args[2:-1]

    def exchanged(gradient: torch.Tensor, result: torch.Tensor, threshold: float) -> tuple[torch.Tensor, ...]:
        relu = torch.relu(result - result.mean())
        pooled, indices = pooling(relu, *options)
        arriving = pooling(gradient, *options)[0]
        whole = _relu_backward(backward(arriving, relu, *others, indices), relu, threshold)
        other = backward(_relu_backward(arriving, pooled, threshold), relu, *others, indices)
        return (_relu_backward(gradient, result, threshold),) if torch.equal(whole, other) else ()

    return same_bits_in_parts(pair.relu, "before its pooling", exchanged)


def with_exchanged(joint: Joint, names: Collection[str]) -> Joint:
    """``joint`` with these of its ``pooled_relus`` the other way round. ``meta["wholes"]`` are the nodes that they replace."""
    pairs = {pair.pool: pair for pair in pooled_relus(joint) if pair.name in names}
    if not pairs:
        return joint
    of_relu = {pair.relu: pair for pair in pairs.values()}
    graph = fx.Graph()
    node_of: dict[fx.Node, fx.Node] = {}
    relu_of: dict[fx.Node, fx.Node] = {}
    for node in joint.graph.graph.nodes:
        if node in pairs:
            first = relu_of[node] = _relu_first(graph, pairs[node], node_of)
            second = node_of[node] = graph.node_copy(node, node_of.__getitem__)
            second.args = (first, *second.args[1:])
            meta = pairs[node].relu.meta
            second.meta |= {key: meta[key] for key in ("val", "shape") if key in meta}
            second.meta |= {"name": pairs[node].name, "wholes": (node,)}
        elif node in of_relu:
            node_of[node] = node_of[of_relu[node].pool]
        else:
            node_of[node] = graph.node_copy(node, node_of.__getitem__)
    ops: list[fx.Node] = []
    for node in joint.ops:
        ops += [relu_of[node], node_of[node]] if node in pairs else [] if node in of_relu else [node_of[node]]
    return rewritten(joint, fx.GraphModule(joint.graph, graph), node_of, ops)


def exchanged_as(joint: Joint, graph: Graph) -> Joint:
    """``joint`` with those the other way round that are so in ``graph``."""
    if not any(_SUFFIX in name for name in graph.by_name):
        return joint
    present = {name.partition(_SUFFIX)[0] + _SUFFIX for name in graph.by_name if _SUFFIX in name}
    return with_exchanged(joint, present)


def _found_at(pool: fx.Node) -> PooledRelu | None:
    relu = next(iter(pool.users)) if len(pool.users) == 1 else None
    indices: Any = pool.args[-1]
    if relu is None or relu.target is not _relu_backward or indices.target is not operator.getitem:
        return None
    pooling: Any = indices.args[0]
    result = relu.args[1]
    pooled = next((user for user in pooling.users if user.target is operator.getitem and user.args[1] == 0), None)
    if pooled is None or not pooling.args[0] is pool.args[1] is result or relu.args[0] is not pool:
        return None
    if pool.meta["pinned"] is not None or relu.meta["pinned"] is not None:
        return None
    gradient: Any = pool.args[0]
    alike = _form(gradient) == _form(pooled) and _form(pool) == _form(relu)
    return PooledRelu(pooling, pooled, pool, relu) if alike else None


def _form(node: fx.Node) -> tuple[Any, ...]:
    fake = node.meta["val"]
    return fake.shape, fake.stride(), fake.dtype


def _relu_first(graph: fx.Graph, pair: PooledRelu, node_of: dict[fx.Node, fx.Node]) -> fx.Node:
    first = graph.node_copy(pair.relu, lambda node: node_of.get(node, node_of[pair.pooled]))
    gradient: Any = pair.pool.args[0]
    first.args = (node_of[gradient], node_of[pair.pooled], pair.relu.args[2])
    first.meta |= {"val": torch.empty_like(gradient.meta["val"]), "wholes": (pair.relu,)}
    first.meta.pop("shape", None)
    if "shape" in gradient.meta:
        first.meta["shape"] = gradient.meta["shape"]
    return first
