"""Losses over classes: a sample target must be one of the classes."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts
from remat_planner.tracer.operators.sample_rules import classes_of, indices

_TARGET_IS_A_CLASS = OperatorFacts(sample_inputs=indices("target", classes_of("self")))

TABLE: Mapping[str, OperatorFacts] = {
    "aten::nll_loss_forward": _TARGET_IS_A_CLASS,
    "aten::nll_loss_backward": _TARGET_IS_A_CLASS,
    "aten::nll_loss2d_forward": _TARGET_IS_A_CLASS,
    "aten::nll_loss2d_backward": _TARGET_IS_A_CLASS,
    "aten::multi_margin_loss": _TARGET_IS_A_CLASS,
    "aten::multi_margin_loss_backward": _TARGET_IS_A_CLASS,
}
