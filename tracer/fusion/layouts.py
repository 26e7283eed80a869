"""The layout in which inductor runs convolutions on a CPU, and what it copies for that.

On a CPU inductor gives images and weights of two-dimensional convolutions the layout ``channels_last``. It computes images in
it from the beginning. What comes in another layout it copies just before (``torch/_inductor/kernel/conv.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


def runs_channels_last(node: fx.Node) -> bool:
    """Whether ``node`` is a convolution, or the backward of one, that inductor runs in ``channels_last``."""
    return (
        node.target in _CONVOLUTIONS
        and all(_is_image(argument) for argument in node.all_input_nodes[:2])
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def is_converted(node: fx.Node) -> bool:
    """Whether inductor copies the placeholder ``node`` where a convolution reads it, since it has another layout."""
    if node.op != "placeholder" or not _is_image(node):
        return False
    tensor = node.meta["val"]
    return (
        tensor.is_contiguous()
        and not tensor.is_contiguous(memory_format=torch.channels_last)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def as_called(node: fx.Node) -> fx.Node:
    """The call that inductor makes of ``node``: for a convolution one on images in ``channels_last``, in a graph by itself."""
    if not runs_channels_last(node):
        return node
    graph = fx.Graph()
    given: dict[fx.Node, fx.Node] = {}
    for argument in node.all_input_nodes:
        given[argument] = graph.placeholder(argument.name)
        given[argument].meta["val"] = _channels_last(argument.meta["val"])
    call = graph.node_copy(node, given.__getitem__)
    tensors = {call_argument: call_argument.meta["val"] for call_argument in given.values()}
    args, kwargs = fx.node.map_arg((call.args, call.kwargs), tensors.__getitem__)
    operator: Any = node.target
    call.meta = {"val": operator(*args, **kwargs)}
    return call


def _is_image(node: fx.Node) -> bool:
    tensor = node.meta.get("val")
    return isinstance(tensor, torch.Tensor) and tensor.dim() == 4 and tensor.device.type == "cpu"


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() != 4:
        return tensor
    _, channels, height, width = tensor.shape
    return tensor.new_empty_strided(tensor.shape, (channels * height * width, 1, width * channels, channels))
