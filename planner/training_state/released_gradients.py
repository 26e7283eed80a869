"""Gradients that the step does not retain, because they are added to existing ones or copied into buckets of DDP.

The applied model hands such a gradient to autograd as soon as it may, and autograd frees it. Several processes must agree on
the order in which gradients reach their wrapper, so gradients are released in eager's order. One computed early stays allocated
until its turn, modelled as an extra read by the op it waits for. For that, the ops that compute gradients keep their order.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from remat_planner.schedules import Graph
from remat_planner.tracer import Joint


def with_released_gradients(graph: Graph, joint: Joint) -> Graph:
    """``graph`` in which the gradients of parameters do not outlive the step."""
    values = gradient_values(graph, joint)
    released = set(values.values())
    names = [gradient.node.meta.get("name", "") if gradient.node is not None else "" for gradient in joint.gradients]
    waiting: dict[int, list[int]] = defaultdict(list)
    in_turn: set[int] = set()
    latest = -1
    for k in joint.arrivals:
        producer = graph.by_name.get(names[k], -1)
        latest = max(latest, producer)
        in_turn.add(producer)
        if k in values and producer < latest:
            waiting[latest].append(values[k])
    return replace(
        graph,
        ops=tuple(
            replace(op, reads=tuple(dict.fromkeys((*op.reads, *waiting[i]))), in_turn=op.in_turn or i in in_turn)
            for i, op in enumerate(graph.ops)
        ),
        results=tuple(value for value in graph.results if value not in released),
    )


def released_gradients(graph: Graph, joint: Joint) -> frozenset[int]:
    """Indices into ``joint.gradients`` of the gradients of parameters that ``graph`` does not retain."""
    retained = set(graph.results)
    return frozenset(k for k, value in gradient_values(graph, joint).items() if value not in retained)


def gradient_values(graph: Graph, joint: Joint) -> dict[int, int]:
    """The value in ``graph`` of each parameter's gradient, by its index into ``joint.gradients``."""
    values = {}
    for k, gradient in enumerate(joint.gradients):
        name = gradient.node.meta.get("name", "") if gradient.node is not None else ""
        if gradient.owner == "parameter" and name in graph.by_name:
            values[k] = graph.ops[graph.by_name[name]].writes[0]
    return values
