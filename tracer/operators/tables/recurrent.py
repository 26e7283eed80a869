"""Recurrent layers that run as one operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from remat_planner.tracer.operators.facts import OperatorFacts
from remat_planner.tracer.operators.op_call import OpCall, TensorSpec


def _layers(call: OpCall) -> Sequence[TensorSpec]:
    """The weights of a whole stack of layers."""
    weights: Sequence[TensorSpec] = call.argument("weight")
    return weights


def _layer(call: OpCall) -> Sequence[TensorSpec]:
    return call.argument("weight0"), call.argument("weight1")


def _layer_backward(call: OpCall) -> Sequence[TensorSpec]:
    """oneDNN's backward counts the weights from 1."""
    return call.argument("weight1"), call.argument("weight2")


def _facts(weights_of: Callable[[OpCall], Sequence[TensorSpec]], products: int) -> OperatorFacts:
    """Every weight matrix meets each element of the sequence in this many products: one forward, two backward."""

    def flops(call: OpCall) -> int:
        sequence = call.argument("input").shape
        elements = sequence[0] if call.argument("batch_sizes") else sequence[0] * sequence[1]
        matrices = [weight.shape for weight in weights_of(call) if len(weight.shape) == 2]
        return 2 * products * elements * sum(rows * columns for rows, columns in matrices)

    return OperatorFacts(flops=flops)


TABLE: Mapping[str, OperatorFacts] = {
    "aten::_cudnn_rnn": _facts(_layers, products=1),
    "aten::_cudnn_rnn_backward": _facts(_layers, products=2),
    "aten::miopen_rnn": _facts(_layers, products=1),
    "aten::miopen_rnn_backward": _facts(_layers, products=2),
    "aten::mkldnn_rnn_layer": _facts(_layer, products=1),
    "aten::mkldnn_rnn_layer_backward": _facts(_layer_backward, products=2),
}
