"""What ``remat_planner.curve`` returns: the data, and how Python and notebooks show it."""

from __future__ import annotations

from dataclasses import dataclass

from remat_planner.planner.reports.curve.data import CurveData
from remat_planner.planner.reports.curve.html import curve_html


@dataclass(frozen=True, repr=False)
class BudgetCurve(CurveData):
    """Extra time against budget for one training step; a notebook draws it."""

    def __repr__(self) -> str:
        knee = "" if self.knee is None else f", knee at {self.knee.budget_bytes:,}"
        return (
            f"<BudgetCurve of {self.model or 'a graph'}: {len(self.points)} budgets from {self.minimum_bytes:,} to "
            f"{self.points[-1].budget_bytes:,} bytes{knee}>"
        )

    def _repr_html_(self) -> str:
        return curve_html(self)
