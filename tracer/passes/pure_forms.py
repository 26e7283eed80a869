"""Pure functions for pairs of operators, and for operators, that are not quite pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.operators import graph_function

aten = torch.ops.aten

_ALLOCATES_ONLY = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}


@graph_function("tracer.pure_forms.copied_with_strides")
def copied_with_strides(
    source: torch.Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A copy of ``source`` in a fresh tensor laid out by ``stride`` (elements)."""
    return torch.empty_strided(size, stride, dtype=dtype, device=device).copy_(source)


@graph_function("tracer.pure_forms.recurrent_layer_with_workspace")
def recurrent_layer_with_workspace(*args: Any) -> tuple[torch.Tensor, ...]:
    """``aten.mkldnn_rnn_layer`` with the workspace for its backward, which it allocates only while autograd records."""
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
    with torch.enable_grad():
        return aten.mkldnn_rnn_layer.default(*detached)


def use_pure_forms(graph: fx.Graph) -> None:
    """Rewrite a functional graph: a copy into fresh memory becomes one op, recurrent layers become pure functions."""
    for node in list(graph.nodes):
        if node.target is aten.mkldnn_rnn_layer.default:
            node.target = recurrent_layer_with_workspace
        if node.target is aten.copy.default:
            _fuse_copy(graph, node)


def _fuse_copy(graph: fx.Graph, node: fx.Node) -> None:
    fresh, source = node.args[:2]
    if not (isinstance(fresh, fx.Node) and isinstance(source, fx.Node)):
        return
    if fresh.target not in _ALLOCATES_ONLY or len(fresh.users) != 1:
        return
    layout, result = fresh.meta["val"], node.meta["val"]
    if layout.stride() != result.stride() or layout.shape != result.shape:
        return
    node.target = copied_with_strides
    node.args = (source, tuple(layout.shape), tuple(layout.stride()), layout.dtype, layout.device)
    node.kwargs = {}
    graph.erase_node(fresh)
