"""Pure functions in the place of operator pairs and operators that are not quite pure."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import SAME_TENSOR, graph_function

aten = torch.ops.aten

_FRESH = {
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
    """``aten.mkldnn_rnn_layer``, which makes the workspace that its backward needs only where gradients are recorded."""
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
    with torch.enable_grad():
        return aten.mkldnn_rnn_layer.default(*detached)


def use_pure_forms(graph: fx.Graph) -> None:
    """Rewrite a functional graph: copies into fresh memory as one op, recurrent layers as pure functions."""
    for node in list(graph.nodes):
        if node.target is aten.mkldnn_rnn_layer.default:
            node.target = recurrent_layer_with_workspace
        if node.target is aten.mkldnn_rnn_layer_backward.default:
            _tell_apart(node)
        if node.target is aten.copy.default:
            _fuse_copy(graph, node)


def _fuse_copy(graph: fx.Graph, node: fx.Node) -> None:
    fresh, source = node.args[:2]
    if not (isinstance(fresh, fx.Node) and isinstance(source, fx.Node)) or fresh.target not in _FRESH or len(fresh.users) != 1:
        return
    layout, result = fresh.meta["val"], node.meta["val"]
    if layout.stride() != result.stride() or layout.shape != result.shape:
        return
    node.target = copied_with_strides
    node.args = (source, tuple(layout.shape), tuple(layout.stride()), layout.dtype, layout.device)
    node.kwargs = {}
    graph.erase_node(fresh)


def _tell_apart(node: fx.Node) -> None:
    """Give each result of a recurrent layer's backward a storage: its fakes are one for both biases, the real ones are two."""
    seen: set[int] = set()
    results = list(node.meta["val"])
    for i, result in enumerate(results):
        if isinstance(result, torch.Tensor):
            if result.untyped_storage()._cdata in seen:
                with result.fake_mode:  # type: ignore[attr-defined]
                    results[i] = torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device=result.device)
            seen.add(results[i].untyped_storage()._cdata)
    node.meta["val"] = tuple(results)
    for user in node.users:
        if user.target is operator.getitem:
            _show(user, results[user.args[1]])  # type: ignore[index]


def _show(node: fx.Node, value: Any) -> None:
    node.meta["val"] = value
    for user in node.users:
        if user.target in SAME_TENSOR:
            _show(user, value)
