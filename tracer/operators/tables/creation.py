"""New tensors: some take only the form or the device of an argument, some are allocated and not touched."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.operators.facts import OperatorFacts, Roofline
from remat_planner.tracer.operators.traffic import all_but_first

_FILLED = OperatorFacts(roofline=Roofline(bytes_moved=all_but_first))
_NOT_TOUCHED = OperatorFacts(roofline=Roofline(free=True))

TABLE: Mapping[str, OperatorFacts] = {
    "aten::zeros_like": _FILLED,
    "aten::ones_like": _FILLED,
    "aten::full_like": _FILLED,
    "aten::rand_like": _FILLED,
    "aten::randn_like": _FILLED,
    "aten::randint_like": _FILLED,
    "aten::new_zeros": _FILLED,
    "aten::new_ones": _FILLED,
    "aten::new_full": _FILLED,
    "aten::empty": _NOT_TOUCHED,
    "aten::empty_like": _NOT_TOUCHED,
    "aten::empty_strided": _NOT_TOUCHED,
    "aten::empty_permuted": _NOT_TOUCHED,
    "aten::new_empty": _NOT_TOUCHED,
    "aten::new_empty_strided": _NOT_TOUCHED,
}
