"""Updates of tensors that outlive the step."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts

TABLE: Mapping[str, OperatorFacts] = {
    # The captured graph writes a buffer's new value back by this overload.
    "aten::copy_.default": OperatorFacts(pure=False, pinned="updates a tensor that outlives the step"),
}
