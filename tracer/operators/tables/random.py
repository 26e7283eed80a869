"""Operators that PyTorch tags as random and that draw in training only. Attention with dropout has a table of its own."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts

_IN_TRAINING = OperatorFacts(draws_if="training")

TABLE: Mapping[str, OperatorFacts] = {
    "aten::native_dropout": OperatorFacts(draws_if="train"),
    "aten::rrelu": _IN_TRAINING,
    "aten::rrelu_": _IN_TRAINING,
    "aten::rrelu_with_noise": _IN_TRAINING,
    "aten::rrelu_with_noise_": _IN_TRAINING,
    "aten::rrelu_with_noise_functional": _IN_TRAINING,
}
