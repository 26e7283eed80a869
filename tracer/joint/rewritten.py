"""A joint graph whose nodes are replaced by those of another graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import fx

from remat_planner.tracer.joint.graph import Gradient, Joint, OutputLeaf


def rewritten(joint: Joint, graph: fx.GraphModule, node_of: Mapping[fx.Node, fx.Node], ops: Sequence[fx.Node]) -> Joint:
    """``joint`` on ``graph``, whose calls are ``ops``; ``node_of`` has its node for each node of the old graph."""

    def nodes(of: Sequence[fx.Node]) -> tuple[fx.Node, ...]:
        return tuple(node_of[node] for node in of)

    return replace(
        joint,
        graph=graph,
        ops=tuple(ops),
        parameter_nodes=nodes(joint.parameter_nodes),
        buffer_nodes=nodes(joint.buffer_nodes),
        input_nodes=nodes(joint.input_nodes),
        tangent_nodes=nodes(joint.tangent_nodes),
        outputs=tuple(_moved_leaf(leaf, node_of) for leaf in joint.outputs),
        gradients=tuple(_moved_gradient(gradient, node_of) for gradient in joint.gradients),
    )


def with_nodes_changed(joint: Joint, change: Callable[[fx.Node, fx.Node], None]) -> Joint:
    """``joint`` on a copy of its graph, of whose nodes ``change(copied, node)`` may change each in place."""
    graph = fx.Graph()
    node_of: dict[fx.Node, fx.Node] = {}
    for node in joint.graph.graph.nodes:
        node_of[node] = graph.node_copy(node, node_of.__getitem__)
        change(node_of[node], node)
    return rewritten(joint, fx.GraphModule(joint.graph, graph), node_of, [node_of[node] for node in joint.ops])


def _moved_leaf(leaf: OutputLeaf, node_of: Mapping[fx.Node, fx.Node]) -> OutputLeaf:
    return leaf if leaf.node is None else replace(leaf, node=node_of[leaf.node])


def _moved_gradient(gradient: Gradient, node_of: Mapping[fx.Node, fx.Node]) -> Gradient:
    return replace(
        gradient,
        node=None if gradient.node is None else node_of[gradient.node],
        contributions=tuple(node_of[node] for node in gradient.contributions),
        sums=tuple(node_of[node] for node in gradient.sums),
    )
