"""A segment of a program in pieces: stretches of operators that a compiler may have, and what runs as it is between them.

To a compiler a piece is arithmetic: it may merge, move and fuse what is in it. Two executions of an operator would become one
again, and a recomputation would move up to where its inputs are, away from where its result is needed. So a piece ends where
recomputing begins, and has no operator twice.

What draws random numbers, changes something in place or is not PyTorch's own stays out of the pieces: compiled, it would draw
from another stream or could not be told when to happen. So do views that are used outside of the piece that makes them: they
share the version counter of what they are views of, which a compiler's copies of them do not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.planner.codegen import IncomingForm
from remat_planner.planner.torch_private import is_view_operator
from remat_planner.tracer.joint import hidden_updates

_FEWEST = 2  # operators: one alone has nothing to be fused with
_PURE = ("aten", "prims")

Supported = Callable[[torch._ops.OpOverload], bool]
"""Whether a compiler has code of its own for an operator."""


@dataclass(frozen=True)
class Piece:
    """Nodes of a segment's graph that run together.

    Attributes:
        nodes: the nodes in order.
        reads: nodes outside of it whose values they read.
        writes: those of ``nodes`` that later pieces read or that the segment returns.
        compilable: whether a compiler may have it.
    """

    nodes: tuple[fx.Node, ...]
    reads: tuple[fx.Node, ...]
    writes: tuple[fx.Node, ...]
    compilable: bool

    @property
    def operators(self) -> tuple[fx.Node, ...]:
        """Its nodes that compute."""
        return tuple(node for node in self.nodes if _computes(node))


def pieces_of(graph: fx.Graph, supported: Supported) -> tuple[Piece, ...]:
    """The pieces of a segment's graph, which is as ``planner.emit`` makes it, in the order in which they run."""
    box = next(iter(graph.nodes))
    results = graph.output_node().all_input_nodes
    body = [node for node in graph.nodes if node.op not in ("placeholder", "output") and box not in node.all_input_nodes]
    parts = [part for group in _groups(body, supported) for part in _with_views_outside(*group, results)]
    return tuple(_wired(list(_merged(parts)), results))


def _groups(body: Iterable[fx.Node], supported: Supported) -> Iterator[tuple[bool, list[fx.Node]]]:
    """The nodes, in order, in stretches: (whether it may be compiled, its nodes)."""
    group: list[fx.Node] = []
    kind: bool | None = None
    executed: set[fx.Node] = set()
    recomputing = False
    for node in body:
        if not _is_free(node) and not _is_element(node):
            arithmetic = _is_arithmetic(node, supported)
            again = node.meta.get("again", False)
            repeats = arithmetic and ((again and not recomputing) or node.meta["captured"] in executed)
            if kind is not None and (arithmetic != kind or repeats):
                yield kind, group
                group, executed = [], set()
            kind, recomputing = arithmetic, again
            executed.add(node.meta.get("captured", node))
        group.append(node)
    if group:
        yield bool(kind), group


def _with_views_outside(may: bool, group: list[fx.Node], results: Iterable[fx.Node]) -> list[tuple[bool, list[fx.Node]]]:
    """The group, and before and after it the views in it that are used outside: they run as they are."""
    if not may or sum(map(_computes, group)) < _FEWEST:
        return [(False, group)]
    inside, returned = set(group), set(results)
    before: set[fx.Node] = {node for node in group if node.op == "get_attr"}
    after: set[fx.Node] = set()
    for node in group:
        if _is_free(node) and (node in returned or any(user not in inside for user in node.users)):
            chain = [node]
            while chain[-1].all_input_nodes and (base := chain[-1].all_input_nodes[0]) in inside and _is_free(base):
                chain.append(base)
            made_inside = any(base in inside for base in chain[-1].all_input_nodes)
            (after if made_inside else before).update(chain)
    return [
        (False, [node for node in group if node in before]),
        (True, [node for node in group if node.op != "get_attr"]),
        (False, [node for node in group if node in after]),
    ]


def _merged(parts: Iterable[tuple[bool, list[fx.Node]]]) -> Iterator[tuple[bool, list[fx.Node]]]:
    """Without empty parts, and with what runs as it is together where it is adjacent."""
    waiting: list[fx.Node] = []
    for may, nodes in parts:
        if not may:
            waiting += nodes
            continue
        if waiting:
            yield False, waiting
            waiting = []
        yield True, nodes
    if waiting:
        yield False, waiting


def _wired(parts: list[tuple[bool, list[fx.Node]]], results: Iterable[fx.Node]) -> list[Piece]:
    used = set(results)
    pieces: list[Piece] = []
    for may, nodes in reversed(parts):
        writes = [node for node in nodes if node in used and not (may and _is_free(node))]
        if may:
            nodes = _leading_to(writes, nodes)
        own = set(nodes)
        reads = tuple(dict.fromkeys(argument for node in nodes for argument in node.all_input_nodes if argument not in own))
        used.update(reads)
        pieces.append(Piece(tuple(nodes), reads, tuple(writes), may))
    return pieces[::-1]


def _leading_to(wanted: Iterable[fx.Node], nodes: list[fx.Node]) -> list[fx.Node]:
    needed = set(wanted)
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in nodes if node in needed]


def _computes(node: fx.Node) -> bool:
    return "operator" in node.meta and not _is_free(node)


def _is_element(node: fx.Node) -> bool:
    return node.target is operator.getitem and "operator" not in node.meta


def _is_free(node: fx.Node) -> bool:
    """Whether it takes no kernel: a view, an element of a tuple of views, a constant."""
    if node.op == "get_attr":
        return True
    if _is_element(node):
        return _is_free(node.all_input_nodes[0])
    return is_view_operator(node.meta.get("operator"))


def _is_arithmetic(node: fx.Node, supported: Supported) -> bool:
    """Whether running it depends on its arguments and changes nothing, and a compiler has code for it."""
    target = node.meta.get("operator")
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in _PURE or not supported(target):
        return False
    if target._schema.is_mutable or node.meta["captured"].meta["random"] or hidden_updates(target, node.args, node.kwargs):
        return False
    made = _tensors(node)
    given = [tensor for argument in node.all_input_nodes for tensor in _tensors(argument)]
    return (
        all(tensor.layout is torch.strided and not tensor.is_complex() for tensor in (*made, *given))
        and all(IncomingForm.of(tensor).dense for tensor in made)
        and len({tensor.device for tensor in (*made, *given)}) == 1
    )


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    leaves: list[Any] = pytree.tree_leaves(node.meta.get("val"))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
