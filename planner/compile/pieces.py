"""Divides a segment's graph into pieces: stretches of operators for a compiler, and between them what must run as it is.

A compiler may merge, move and fuse all arithmetic in a piece. It would merge two executions of an operator, and move a
recomputation up to its inputs, away from its reader. So a piece ends where recomputation begins, and executes no operator
twice.

Some operators stay outside of the pieces: those that draw random numbers (a compiler draws from another stream), that change a
tensor in place (their moment matters), or that are not PyTorch's own. So do views that are read outside of their piece: a view
shares the version counter of its base, and a compiler's copy of it does not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.planner.codegen import TensorLayout
from remat_planner.planner.torch_private import is_view_operator
from remat_planner.tracer.operators import hidden_updates

_FEWEST_OPERATORS = 2
"""Operators in a piece that is compiled: a single one has nothing to be fused with."""

_PURE_NAMESPACES = ("aten", "prims")

Supported = Callable[[torch._ops.OpOverload], bool]
"""Whether a compiler has code of its own for an operator."""


@dataclass(frozen=True)
class Piece:
    """Nodes of a segment's graph that run together.

    Attributes:
        nodes: the nodes in order.
        reads: nodes outside of the piece whose values it reads.
        writes: those of ``nodes`` that later pieces read or that the segment returns.
        compilable: whether a compiler may have it.
    """

    nodes: tuple[fx.Node, ...]
    reads: tuple[fx.Node, ...]
    writes: tuple[fx.Node, ...]
    compilable: bool

    @property
    def operators(self) -> tuple[fx.Node, ...]:
        """The nodes that run a kernel."""
        return tuple(node for node in self.nodes if _computes(node))


@dataclass
class _Stretch:
    """Adjacent nodes, all for the compiler or all not."""

    compilable: bool
    nodes: list[fx.Node]


def pieces_of(graph: fx.Graph, supported: Supported) -> tuple[Piece, ...]:
    """The pieces of a segment's graph, as ``codegen.emit`` writes it, in the order in which they run."""
    box = next(iter(graph.nodes))
    results = graph.output_node().all_input_nodes
    body = [node for node in graph.nodes if node.op not in ("placeholder", "output") and box not in node.all_input_nodes]
    stretches = [part for stretch in _stretches(body, supported) for part in _with_views_outside(stretch, results)]
    return tuple(_connected(list(_merged(stretches)), results))


def _stretches(body: Iterable[fx.Node], supported: Supported) -> Iterator[_Stretch]:
    """The nodes in order; a stretch ends where arithmetic does, where recomputation begins, and before a second execution."""
    stretch: _Stretch | None = None
    free: list[fx.Node] = []  # nodes without a kernel before the first stretch
    executed: set[fx.Node] = set()
    recomputing = False
    for node in body:
        if _is_free(node) or _is_element(node):
            (free if stretch is None else stretch.nodes).append(node)
            continue
        arithmetic = _is_arithmetic(node, supported)
        recomputed = node.meta.get("recomputed", False)
        if stretch is not None:
            repeats = arithmetic and ((recomputed and not recomputing) or node.meta["captured"] in executed)
            if arithmetic != stretch.compilable or repeats:
                yield stretch
                stretch, executed = _Stretch(arithmetic, []), set()
        else:
            stretch = _Stretch(arithmetic, free)
        recomputing = recomputed
        executed.add(node.meta.get("captured", node))
        stretch.nodes.append(node)
    if stretch is not None or free:
        yield stretch or _Stretch(False, free)


def _with_views_outside(stretch: _Stretch, results: Iterable[fx.Node]) -> list[_Stretch]:
    """The stretch without the constants and the views that are read outside of it, which run before or after it."""
    group = stretch.nodes
    if not stretch.compilable or sum(map(_computes, group)) < _FEWEST_OPERATORS:
        return [_Stretch(False, group)]
    inside, returned = set(group), set(results)
    before: set[fx.Node] = {node for node in group if node.op == "get_attr"}
    after: set[fx.Node] = set()
    for node in group:
        if _is_free(node) and (node in returned or any(user not in inside for user in node.users)):
            chain = [node]
            while chain[-1].all_input_nodes and (base := chain[-1].all_input_nodes[0]) in inside and _is_free(base):
                chain.append(base)
            base_is_inside = any(base in inside for base in chain[-1].all_input_nodes)
            (after if base_is_inside else before).update(chain)
    return [
        _Stretch(False, [node for node in group if node in before]),
        _Stretch(True, [node for node in group if node.op != "get_attr"]),
        _Stretch(False, [node for node in group if node in after]),
    ]


def _merged(stretches: Iterable[_Stretch]) -> Iterator[_Stretch]:
    """The stretches with adjacent ones outside of the compiler merged, and no empty ones among these."""
    waiting: list[fx.Node] = []
    for stretch in stretches:
        if not stretch.compilable:
            waiting += stretch.nodes
            continue
        if waiting:
            yield _Stretch(False, waiting)
            waiting = []
        yield stretch
    if waiting:
        yield _Stretch(False, waiting)


def _connected(stretches: list[_Stretch], results: Iterable[fx.Node]) -> list[Piece]:
    """The stretches as pieces, with what each reads and writes."""
    used = set(results)
    pieces: list[Piece] = []
    for stretch in reversed(stretches):
        writes = [node for node in stretch.nodes if node in used and not (stretch.compilable and _is_free(node))]
        nodes = _needed_for(writes, stretch.nodes) if stretch.compilable else stretch.nodes
        inside = set(nodes)
        reads = tuple(dict.fromkeys(argument for node in nodes for argument in node.all_input_nodes if argument not in inside))
        used.update(reads)
        pieces.append(Piece(tuple(nodes), reads, tuple(writes), stretch.compilable))
    return pieces[::-1]


def _needed_for(results: Iterable[fx.Node], nodes: list[fx.Node]) -> list[fx.Node]:
    needed = set(results)
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in nodes if node in needed]


def _computes(node: fx.Node) -> bool:
    return "operator" in node.meta and not _is_free(node)


def _is_element(node: fx.Node) -> bool:
    return node.target is operator.getitem and "operator" not in node.meta


def _is_free(node: fx.Node) -> bool:
    """Whether the node needs no kernel: a view, an element of a tuple of views, a constant."""
    if node.op == "get_attr":
        return True
    if _is_element(node):
        return _is_free(node.all_input_nodes[0])
    return is_view_operator(node.meta.get("operator"))


def _is_arithmetic(node: fx.Node, supported: Supported) -> bool:
    """Whether the node is a pure function of its arguments, on ordinary tensors of one device, with code in the compiler."""
    target = node.meta.get("operator")
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in _PURE_NAMESPACES or not supported(target):
        return False
    if target._schema.is_mutable or node.meta["captured"].meta["random"] or hidden_updates(target, node.args, node.kwargs):
        return False
    results = _tensors(node)
    arguments = [tensor for argument in node.all_input_nodes for tensor in _tensors(argument)]
    return (
        all(tensor.layout is torch.strided and not tensor.is_complex() for tensor in (*results, *arguments))
        and all(TensorLayout.of(tensor).dense for tensor in results)
        and len({tensor.device for tensor in (*results, *arguments)}) == 1
    )


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    leaves: list[Any] = pytree.tree_leaves(node.meta.get("val"))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
