"""Floating point operations of operator calls: products, convolutions, attention, recurrent layers; all else counts 0.

A multiply and an add are two. Elementwise operators and reductions count 0: they are bound by memory on every device, and a
model's "model FLOPs" leave them out too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from remat_planner.tracer.costs.op_call import OpCall, TensorSpec, argument

aten = torch.ops.aten


def flops(call: OpCall) -> int:
    """Floating point operations of ``call``; causal attention counts the half that it computes."""
    packet = getattr(call.target, "overloadpacket", None)
    if packet in ATTENTION_FORWARD:
        return _attention(call, _FORWARD)
    if packet in ATTENTION_BACKWARD:
        return _attention(call, _BACKWARD)
    if packet in _OTHERS:
        return _OTHERS[packet](call)
    if packet in flop_registry:
        args, kwargs, outputs = pytree.tree_map(_shape, (call.args, call.kwargs, list(call.outputs)))
        return int(flop_registry[packet](*args, **kwargs, out_val=outputs[0] if len(outputs) == 1 else outputs))
    return 0


def _shape(leaf: Any) -> Any:
    return leaf.shape if isinstance(leaf, (TensorSpec, torch.Tensor)) else leaf


# Matrix products that a forward does (scores, weighted values), and a backward: the scores again, and the gradients of the
# values, of the probabilities, of the queries and of the keys.
_FORWARD, _BACKWARD = 2, 5

ATTENTION_FORWARD = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_attention_math,
}
ATTENTION_BACKWARD = {
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
    aten._scaled_dot_product_flash_attention_backward,
    aten._scaled_dot_product_efficient_attention_backward,
    aten._scaled_dot_product_cudnn_attention_backward,
}


def _attention(call: OpCall, products: int) -> int:
    query, key, value = (argument(call, name).shape for name in ("query", "key", "value"))
    *batch, queries, width = query
    keys, value_width = key[-2], value[-1]
    across_width = 1 if products == _FORWARD else 3  # products whose inner or outer size is the query's width
    per_pair = 2 * (across_width * width + (products - across_width) * value_width)
    total = per_pair * queries * keys
    for extent in batch:
        total *= extent
    return total // 2 if argument(call, "is_causal") else total


def _matrix_vector(call: OpCall) -> int:
    matrix = next(spec for spec in call.tensors if len(spec.shape) == 2)
    return 2 * matrix.shape[0] * matrix.shape[1]


def _dot(call: OpCall) -> int:
    return 2 * call.tensors[0].shape[0]


def _outer(call: OpCall) -> int:
    result = next(output for output in call.outputs if output is not None)
    return 2 * result.numel()


def _grouped(call: OpCall) -> int:
    """Every row meets the one matrix of its group; without offsets both factors are batches."""
    left, right = call.tensors[0].shape, call.tensors[1].shape
    batch = left[0] if len(left) == len(right) == 3 else 1
    return 2 * batch * left[-2] * left[-1] * right[-1]


def _recurrent(call: OpCall) -> int:
    """Each weight matrix meets every element of the sequence once; the backward of each product is two."""
    sequence = argument(call, "input").shape
    places = sequence[0] if argument(call, "batch_sizes") else sequence[0] * sequence[1]
    packet = getattr(call.target, "overloadpacket", None)
    weights: list[TensorSpec]
    if packet in (aten._cudnn_rnn, aten._cudnn_rnn_backward, aten.miopen_rnn, aten.miopen_rnn_backward):
        weights = argument(call, "weight")
    else:
        first = 1 if packet is aten.mkldnn_rnn_layer_backward else 0
        weights = [argument(call, f"weight{first}"), argument(call, f"weight{first + 1}")]
    products = 2 if packet in _RECURRENT_BACKWARD else 1
    return 2 * products * places * sum(w.shape[0] * w.shape[1] for w in weights if len(w.shape) == 2)


_RECURRENT_BACKWARD = {aten._cudnn_rnn_backward, aten.miopen_rnn_backward, aten.mkldnn_rnn_layer_backward}
_OTHERS: dict[Any, Callable[[OpCall], int]] = {
    **dict.fromkeys((aten._cudnn_rnn, aten.miopen_rnn, aten.mkldnn_rnn_layer, *_RECURRENT_BACKWARD), _recurrent),
    aten.mv: _matrix_vector,
    aten.addmv: _matrix_vector,
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.addr: _outer,
    aten._grouped_mm: _grouped,
}
