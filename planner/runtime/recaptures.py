"""Says why the step is captured again: each of the first times, then once for all what to change so that it is not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning import CallNow, Difference, input_signature

_log = logging.getLogger("remat_planner")

_MOST_TOLD = 3
"""Captures for one form of input that are told one by one; the last of them comes with advice."""


class Recaptures:
    """Counts the captures for calls whose tensors have the forms of a program that is there.

    Args:
        most_programs: number of programs that are kept.
    """

    def __init__(self, most_programs: int) -> None:
        self._most_programs = most_programs
        self._count: Counter[Any] = Counter()

    def tell(
        self, call: CallNow, differences: Sequence[Difference], outcome: str | None, seconds: float, programs: int
    ) -> None:
        """Log a capture.

        Args:
            call: the call that it was made for.
            differences: what the call has otherwise than the newest program for its form.
            outcome: what the capture led to, in words; None where it led to a plan, which is logged by itself.
            seconds: time that it took.
            programs: number of programs there are now.
        """
        form = (str(call.tree), *(leaf.shape for leaf in call.leaves if isinstance(leaf, torch.Tensor)))
        self._count[form] += 1
        what = ", ".join(dict.fromkeys(difference.what for difference in differences)) or "something that has no name"
        if self._count[form] != _MOST_TOLD:
            if outcome is not None:
                level = logging.WARNING if self._count[form] < _MOST_TOLD else logging.INFO
                _log.log(level, "changed since the model was captured: %s. Captured once more: %s", what, outcome)
        else:
            _log.warning(
                "captured %d times for inputs of one form (%s), the last time in %.1f s, because a captured step takes as "
                "constant what changes from call to call: %s. To capture once, %s. Of the programs that come of it, %d are "
                "kept now, %d at most. Later captures for this form are logged at the level INFO",
                _MOST_TOLD,
                format_inputs(input_signature(call.args, call.kwargs)),
                seconds,
                what,
                "; ".join(dict.fromkeys(difference.advice for difference in differences)) or "find out what changes",
                programs,
                self._most_programs,
            )
