"""The range of a random draw, which decides some comparisons whatever is drawn: ``torch.rand([]) < 0.0`` is never true."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DrawRange:
    """Numbers from ``least`` to ``most``.

    Attributes:
        least: the smallest one.
        most: the largest one; itself not among them where ``below`` is set.
        below: whether all are smaller than ``most``.
    """

    least: float
    most: float
    below: bool

    def compared(self, operation: str, other: float) -> bool | None:
        """Whether each number is "lt", "le", "gt" or "ge" to ``other``; None where that is not the same for all."""
        if math.isnan(other):
            return False
        if operation in ("ge", "le"):
            opposite = self.compared("lt" if operation == "ge" else "gt", other)
            return None if opposite is None else not opposite
        if operation == "gt":
            return True if self.least > other else False if self.most <= other else None
        all_smaller = self.most < other or (self.below and self.most == other)
        return True if all_smaller else False if self.least >= other else None

    @property
    def whole(self) -> int | None:
        """The integer that ``int`` makes of each of the numbers; None where they have several."""
        most = math.nextafter(self.most, -math.inf) if self.below else self.most
        return int(self.least) if int(self.least) == int(most) else None
