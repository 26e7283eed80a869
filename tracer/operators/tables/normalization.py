"""Batch normalization, which updates its running statistics although no schema says so."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts

_UPDATES_STATISTICS = OperatorFacts(hidden_updates=("running_mean", "running_var"))

TABLE: Mapping[str, OperatorFacts] = {
    "aten::native_batch_norm.default": _UPDATES_STATISTICS,
    "aten::cudnn_batch_norm.default": _UPDATES_STATISTICS,
    "aten::miopen_batch_norm.default": _UPDATES_STATISTICS,
}
