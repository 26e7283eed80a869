"""Fused attention: FLOPs of forward and backward, dropout, the backward's workspace."""

from __future__ import annotations

import math
from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts, Roofline
from remat_planner.tracer.operators.op_call import OpCall

# Matrix products of a forward: scores, weighted values. Of a backward: the scores again, and the gradients of the values, of
# the probabilities, of the queries and of the keys. Of these, the first number have the query's width as a dimension, the
# second the value's.
_FORWARD_PRODUCTS = (1, 1)
_BACKWARD_PRODUCTS = (3, 2)


def _forward_flops(call: OpCall) -> int:
    return _flops(call, *_FORWARD_PRODUCTS)


def _backward_flops(call: OpCall) -> int:
    return _flops(call, *_BACKWARD_PRODUCTS)


def _flops(call: OpCall, query_products: int, value_products: int) -> int:
    """FLOPs of so many products over each pair of a query and a key; causal attention computes half of the pairs."""
    query, key, value = (call.argument(name).shape for name in ("query", "key", "value"))
    *batch, queries, width = query
    per_pair = 2 * (query_products * width + value_products * value[-1])
    total = per_pair * queries * key[-2] * math.prod(batch)
    return total // 2 if call.argument("is_causal") else total


def _query_gradient_in_32_bits(call: OpCall) -> int:
    """Bytes in which the backward sums the queries' gradient and, for each query, one more number.

    FlashAttention-2 works on blocks of 128 queries and on widths that are multiples of 32.
    """
    *batch, queries, width = call.argument("query").shape
    rows = math.prod(batch) * -(-queries // 128) * 128
    return rows * (-(-width // 32) * 32 + 1) * 4


_FORWARD = OperatorFacts(draws_if="dropout_p", flops=_forward_flops)
_BACKWARD = OperatorFacts(flops=_backward_flops, roofline=Roofline(workspace=_query_gradient_in_32_bits))
_DROPOUT_ONLY = OperatorFacts(draws_if="dropout_p")  # no FLOPs of our own: PyTorch's formula, or decomposed before it is costed

TABLE: Mapping[str, OperatorFacts] = {
    "aten::_scaled_dot_product_flash_attention": _FORWARD,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _FORWARD,
    "aten::_scaled_dot_product_efficient_attention": _FORWARD,
    "aten::_scaled_dot_product_cudnn_attention": _FORWARD,
    "aten::_scaled_dot_product_attention_math": _FORWARD,
    "aten::_scaled_dot_product_attention_math_for_mps": _DROPOUT_ONLY,
    "aten::_scaled_dot_product_fused_attention_overrideable": _DROPOUT_ONLY,
    "aten::_flash_attention_forward": _DROPOUT_ONLY,
    "aten::_efficient_attention_forward": _DROPOUT_ONLY,
    "aten::scaled_dot_product_attention": _DROPOUT_ONLY,
    "aten::_scaled_dot_product_flash_attention_backward": _BACKWARD,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _BACKWARD,
    "aten::_scaled_dot_product_efficient_attention_backward": _BACKWARD,
    "aten::_scaled_dot_product_cudnn_attention_backward": _BACKWARD,
}
