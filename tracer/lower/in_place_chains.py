"""Operators that write their result over the input that they alone read, run together with the operator that makes that input.

Eager has both in memory: what a convolution returns, and what the ReLU after it makes of that. Where nothing else reads the
first, the second can take its place: the ReLU runs in place, right after the convolution, and both are one op of the step. The
kernels are eager's, on the same numbers; only the place of the result is another.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import fx

from remat_planner.schedules import Graph
from remat_planner.tracer.costs import flops
from remat_planner.tracer.joint import Joint, operator_name, rewritten
from remat_planner.tracer.lower.write_over import (
    PREVIOUS,
    TOGETHER,
    Step,
    adds_gradients,
    has_same_bits_written_over,
    is_fresh,
    is_view,
    place_written_over,
    with_previous,
    written_over,
)
from remat_planner.tracer.operators import (
    OpCall,
    OperatorFacts,
    TensorSpec,
    Values,
    facts_of,
    graph_function,
    with_facts,
)


@dataclass(frozen=True)
class Chain:
    """Nodes that run as one.

    Attributes:
        first: makes the tensor.
        element: the node of the tensor among several results of ``first``; None where it is the only one.
        rest: views of it, and operators that write over it, in order.
    """

    first: fx.Node
    element: fx.Node | None
    rest: tuple[fx.Node, ...]

    @property
    def name(self) -> str:
        """The name of the one op."""
        return TOGETHER.join(node.meta["name"] for node in self._computing)

    @property
    def replaced(self) -> tuple[fx.Node, ...]:
        """The nodes that eager runs in its place."""
        return tuple(w for node in self._computing for w in node.meta.get("wholes", (node,)))

    @property
    def _computing(self) -> tuple[fx.Node, ...]:
        return (self.first, *(node for node in self.rest if not is_view(node)))


def chains(joint: Joint) -> list[Chain]:
    """The chains of ``joint``; no node is in two of them."""
    summed = {node for g in joint.gradients for node in (g.node, *g.contributions, *g.sums) if node is not None}
    position = {node: k for k, node in enumerate(joint.graph.graph.nodes)}
    found: list[Chain] = []
    used: set[fx.Node] = set()
    for node in joint.ops:
        if node in used or node in summed or not _can_be_first(node):
            continue
        chain = _chain_from(node, position, summed)
        if chain is not None:
            found.append(chain)
            used.update((chain.first, *chain.rest))
    return found


def has_same_bits_in_place(chain: Chain) -> bool:
    """Whether each operator of ``chain`` has the same bits where it writes over its input, on this device, which runs them.

    Raises:
        tracer.costs.DeviceNotAtHandError: its device is not here.
    """
    line = {chain.first, chain.element, *chain.rest}
    places = {
        node: next(k for k, argument in enumerate(node.args) if isinstance(argument, fx.Node) and argument in line)
        for node in chain.rest
    }
    return all(has_same_bits_written_over(node, place) for node, place in places.items() if not is_view(node))


def with_chains(joint: Joint, names: Collection[str]) -> Joint:
    """``joint`` with these of its ``chains`` as one op each. Its ``meta["wholes"]`` are the nodes that it replaces."""
    chosen = {chain.first: chain for chain in chains(joint) if chain.name in names}
    if not chosen:
        return joint
    element_of = {chain.element: chain for chain in chosen.values() if chain.element is not None}
    members = {node for chain in chosen.values() for node in chain.rest}
    graph = fx.Graph()
    node_of: dict[fx.Node, fx.Node] = {}
    ops: dict[fx.Node, fx.Node] = {}
    for node in joint.graph.graph.nodes:
        if node in members:
            continue
        copied = node_of[node] = ops[node] = graph.node_copy(node, node_of.__getitem__)
        if node in chosen:
            _make_one(copied, chosen[node], node_of)
            if chosen[node].element is None:
                node_of[chosen[node].rest[-1]] = copied
        elif node in element_of:
            last = element_of[node].rest[-1]
            copied.meta |= {key: last.meta[key] for key in ("val", "shape") if key in last.meta}
            node_of[last] = copied
    calls = [ops[node] for node in joint.ops if node in ops]
    return rewritten(joint, fx.GraphModule(joint.graph, graph), node_of, calls)


def chains_as(joint: Joint, graph: Graph) -> Joint:
    """``joint`` with those chains as one op that are one in ``graph``."""
    if not any(TOGETHER in name for name in graph.by_name):
        return joint
    return with_chains(joint, [chain.name for chain in chains(joint) if chain.name in graph.by_name])


def _can_be_first(node: fx.Node) -> bool:
    meta = node.meta
    if meta["pinned"] is not None or meta["random"] or "factor" in meta or "generator" in meta or "inexact" in meta:
        return False
    return not is_view(node) and not adds_gradients(node)


def _chain_from(first: fx.Node, position: dict[fx.Node, int], summed: Collection[fx.Node]) -> Chain | None:
    element = None
    if isinstance(first.meta["val"], (tuple, list)):
        element = next((user for user in first.users if user.target is operator.getitem and user.args[1] == 0), None)
        if element is None or element in summed:
            return None
    current = element or first
    if not is_fresh(first, current):
        return None
    rest: list[fx.Node] = []
    views: list[fx.Node] = []
    while len(current.users) == 1:
        (reader,) = current.users
        if reader.op != "call_function" or reader in summed or reader not in position:
            break
        if any(position[other] > position[first] for other in reader.all_input_nodes if other is not current):
            break
        if is_view(reader) and reader.args[0] is current:
            views.append(reader)
        elif place_written_over(reader, current) is not None and _runs_with(reader, first, current):
            rest += [*views, reader]
            views = []
        else:
            break
        current = reader
    return Chain(first, element, tuple(rest)) if rest else None


def _runs_with(node: fx.Node, first: fx.Node, current: fx.Node) -> bool:
    """Whether ``node`` can run in the same op as ``first``."""
    if any(node.meta[key] != first.meta[key] for key in ("phase", "in_backward", "auxiliary")):
        return False
    # With two gradients that arrive, one may not, and zeros that others read stand in its place.
    return not (first.meta["in_backward"] and any(_is_gradient(n) for n in node.all_input_nodes if n is not current))


def _is_gradient(node: fx.Node) -> bool:
    return node.op == "call_function" and bool(node.meta["in_backward"])


def _make_one(node: fx.Node, chain: Chain, node_of: dict[fx.Node, fx.Node]) -> None:
    """Make ``node``, a copy of the first of ``chain``, run the rest too."""
    previous = {chain.first if chain.element is None else chain.element, *chain.rest}

    def argument(leaf: fx.Node) -> Any:
        return PREVIOUS if leaf in previous else node_of[leaf]

    tail = tuple((fx.node.map_arg(step.args, argument), fx.node.map_arg(dict(step.kwargs), argument)) for step in chain.rest)
    node.args = (*node.args, tail)
    node.target = _chained(node.target, tuple(step.target for step in chain.rest), chain.element is not None)
    last = chain.rest[-1].meta
    for key in ("val", "shape"):
        if key in last and chain.element is None:
            node.meta[key] = last[key]
        elif key in last:
            node.meta[key] = (last[key], *node.meta[key][1:])
    node.meta |= {"name": chain.name, "wholes": chain.replaced}


@cache
def _chained(first: Any, rest: tuple[Any, ...], returns_several: bool) -> Callable[..., Any]:
    """A function that runs ``first`` and then ``rest`` on its result; its last argument has the arguments of ``rest``."""
    steps = [written_over(target) or _view_step(target) for target in rest]
    names = [operator_name(target) for target in (first, *rest)]

    def call_of_first(call: OpCall) -> OpCall:
        return replace(call, target=first, args=call.args[:-1])

    def sample_inputs(call: OpCall) -> dict[str | TensorSpec, Values]:
        rule, of_first = facts_of(first).sample_inputs, call_of_first(call)
        asked = {} if rule is None else rule(of_first)
        return {of_first.argument(key) if isinstance(key, str) else key: values for key, values in asked.items()}

    def workspace(call: OpCall) -> int:
        rule = facts_of(first).roofline.workspace
        return 0 if rule is None else rule(call_of_first(call))

    @with_facts(
        OperatorFacts(
            flops=lambda call: flops(call_of_first(call)),
            sample_inputs=sample_inputs if facts_of(first).sample_inputs is not None else None,
            roofline=replace(facts_of(first).roofline, workspace=workspace, bytes_moved=None),
        )
    )
    @graph_function(f"tracer.in_place_chains.{TOGETHER.join(names)}")
    def run(*args: Any, **kwargs: Any) -> Any:
        *of_first, tail = args
        result = first(*of_first, **kwargs)
        value = result[0] if returns_several else result
        for step, (more, named) in zip(steps, tail, strict=True):
            value = step(value, more, named)
        return (value, *result[1:]) if returns_several else value

    run.__name__ = run.__qualname__ = TOGETHER.join(names)
    return run


def _view_step(target: Callable[..., torch.Tensor]) -> Step:
    return lambda value, args, kwargs: target(*with_previous(args, value), **kwargs)
