"""Which gradients are sums, and of which terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import dense_strides
from remat_planner.tracer.operators import SAME_TENSOR
from remat_planner.tracer.passes.pure_forms import copied_with_strides


def contributions(gradient: fx.Node | None, edges: int) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]:
    """The terms of ``gradient`` in the order in which autograd adds them, and the additions, last first.

    Both are empty where it is no sum. Autograd adds each new term to the sum so far, so of an addition's two arguments the
    earlier one in the graph is that sum.

    Args:
        gradient: node of a gradient, or None.
        edges: number of edges of the autograd graph that lead to it, which is the number of its terms.
    """
    if gradient is None or edges < 2:
        return (), ()
    place = {node: k for k, node in enumerate(gradient.graph.nodes)}
    node: Any = _undetached(gradient.args[0] if gradient.target is copied_with_strides else gradient)
    terms: list[fx.Node] = []
    sums: list[fx.Node] = []
    while len(sums) < edges - 1 and node.target is torch.ops.aten.add.Tensor and node.meta.get("in_backward"):
        if node.kwargs or not all(isinstance(argument, fx.Node) for argument in node.args):
            break
        sums.append(node)
        node, term = sorted(map(_undetached, node.args), key=place.__getitem__)
        terms.append(term)
    return ((node, *reversed(terms)), tuple(sums)) if sums else ((), ())


def mark_sums_of_views(graph: fx.Graph) -> None:
    """Set ``meta["adds_to_view"]`` of each sum in the backward: whether its first term is a view in eager.

    Later passes leave out views.
    """
    for node in graph.nodes:
        if node.target is torch.ops.aten.add.Tensor and node.meta.get("in_backward") and isinstance(node.args[0], fx.Node):
            first: Any = _undetached(node.args[0])
            node.meta["adds_to_view"] = any(value.alias_info is not None for value in _returns(first.target))


def _returns(target: object) -> Sequence[Any]:
    return target._schema.returns if isinstance(target, torch._ops.OpOverload) else ()


def copy_small_first_terms(graph: fx.Graph, gradients: Sequence[fx.Node | None], edges: Sequence[int]) -> None:
    """Where the first term of a sum is part of a larger storage, sum up a copy of it.

    Autograd adds into the first term, so all of its storage would stay allocated as long as the gradient. An example is a token
    that every layer appends: its gradients are rows of the gradients of whole activations.

    Args:
        graph: changed in place.
        gradients: node of each gradient, or None.
        edges: for each of them the number of its terms.
    """
    for gradient, count in zip(gradients, edges, strict=True):
        _, sums = contributions(gradient, count)
        if not sums:
            continue
        term: Any = sums[-1].args[0]
        value = term.meta["val"]
        if value.untyped_storage().nbytes() > value.nbytes and not value.is_conj() and not value.is_neg():
            sums[-1].replace_input_with(term, _copied(graph, term, sums[-1]))


def _copied(graph: fx.Graph, term: fx.Node, addition: fx.Node) -> fx.Node:
    """A copy of ``term`` without gaps, made at once in the backward."""
    value = term.meta["val"]
    with graph.inserting_after(term) if term.meta.get("in_backward") else graph.inserting_before(addition):
        copy = graph.call_function(
            copied_with_strides, (term, tuple(value.shape), dense_strides(value), value.dtype, value.device)
        )
    with value.fake_mode:
        copy.meta["val"] = torch.empty_strided(value.shape, dense_strides(value), dtype=value.dtype, device=value.device)
    copy.meta.update({key: term.meta.get(key, "") for key in ("module", "source")}, in_backward=True)
    return copy


def _undetached(node: Any) -> Any:
    while node.target in SAME_TENSOR:
        node = node.args[0]
    return node
