"""Losses over classes: a sample target must be one of the classes."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts, Values
from remat_planner.tracer.operators.op_call import OpCall, TensorSpec
from remat_planner.tracer.operators.sample_rules import AllEqual, Shares, classes_of, indices

_TARGET_IS_A_CLASS = OperatorFacts(sample_inputs=indices("target", classes_of("self")))


def _ctc_forward(call: OpCall) -> dict[str | TensorSpec, Values]:
    alignments = call.outputs[1]
    assert alignments is not None
    return _ctc(call, int(alignments.shape[2]))


def _ctc(call: OpCall, states: int) -> dict[str | TensorSpec, Values]:
    """Lengths that fit the targets and the states: a blank stands around each label of the longest target."""
    steps, batch, classes = call.argument("log_probs").shape
    targets, longest = call.argument("targets"), states // 2
    packed = len(targets.shape) == 1  # all behind one another
    total = targets.shape[0] if packed else longest * batch
    values: dict[str | TensorSpec, Values] = {"targets": classes}
    if isinstance(call.argument("target_lengths"), TensorSpec):
        values |= {"input_lengths": AllEqual(steps), "target_lengths": Shares(total, longest=longest)}
    return values


_CTC_BACKWARD = OperatorFacts(sample_inputs=lambda call: _ctc(call, call.argument("log_alpha").shape[2]))

TABLE: Mapping[str, OperatorFacts] = {
    "aten::nll_loss_forward": _TARGET_IS_A_CLASS,
    "aten::nll_loss_backward": _TARGET_IS_A_CLASS,
    "aten::nll_loss2d_forward": _TARGET_IS_A_CLASS,
    "aten::nll_loss2d_backward": _TARGET_IS_A_CLASS,
    "aten::multi_margin_loss": _TARGET_IS_A_CLASS,
    "aten::multi_margin_loss_backward": _TARGET_IS_A_CLASS,
    "aten::_ctc_loss": OperatorFacts(sample_inputs=_ctc_forward),
    "aten::_ctc_loss_backward": _CTC_BACKWARD,
}
