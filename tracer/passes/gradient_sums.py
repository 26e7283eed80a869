"""Which gradients are sums, and of which terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

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


def _undetached(node: Any) -> Any:
    while node.target in SAME_TENSOR:
        node = node.args[0]
    return node
