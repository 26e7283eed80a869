"""In-place operators that only give their tensor another shape (``squeeze_``, ``transpose_``), as views of it.

Functionalization takes such views again from the tensor's base, in the order in which the base was viewed, and gets a tensor
that was made complex or real in between wrong (``torch.stft`` of a single signal). What follows such an operator reads its
result, so a view does as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_VIEWS: dict[Any, torch._ops.OpOverload] = {
    aten.as_strided_.default: aten.as_strided.default,
    aten.squeeze_.default: aten.squeeze.default,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.dims: aten.squeeze.dims,
    aten.t_.default: aten.t.default,
    aten.transpose_.default: aten.transpose.int,
    aten.unsqueeze_.default: aten.unsqueeze.default,
}


def take_views_out_of_place(graph: fx.Graph) -> None:
    """Replace each such operator by the view; later readers of the tensor read the view. Parameters and inputs stay."""
    kept = {node for node in graph.nodes if node.op == "placeholder"}
    for node in list(graph.nodes):
        view = _VIEWS.get(node.target)
        tensor = node.args[0] if node.args else None
        if view is None or not isinstance(tensor, fx.Node):
            continue
        if tensor in kept:  # the result is the same tensor
            kept.add(node)
            continue
        node.target = view
        for user in list(tensor.users):
            if node < user:
                user.replace_input_with(tensor, node)
