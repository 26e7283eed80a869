"""Extra time against budget, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from remat_planner.planner.reports.json_document import plain
from remat_planner.planner.reports.policy_comparison import PolicyPoint

_STRAIGHT = 0.05  # of the distance of the ends: a curve that stays nearer to the line between them has no knee


@dataclass(frozen=True)
class CurvePoint:
    """The best schedule found within one budget.

    Attributes:
        budget_bytes: what the step may take at its peak.
        peak_bytes: what it takes; on a GPU, what the allocator hands out or reserves for it.
        overhead: extra time as a fraction of the step without recomputation.
        bound_overhead: the least ``overhead`` that a bound allows within this budget.
        status: "optimal" or "feasible".
        solver: name of the solver that found the schedule.
        assumption: the class of schedules that the bound covers.
    """

    budget_bytes: int
    peak_bytes: int
    overhead: float
    bound_overhead: float
    status: str
    solver: str
    assumption: str


@dataclass(frozen=True)
class CurveData:
    """Extra time against budget for one training step.

    Attributes:
        model: class of the model.
        device: where the costs hold, "cpu" or the name of a GPU.
        costs: where the seconds come from: "measure", the name of a data sheet, or a profile file.
        optimizer: the optimizer whose state counts, or None.
        baseline_seconds: of the step without recomputation.
        baseline_peak_bytes: peak without recomputation.
        points: by budget, from the least for which a schedule was found to ``baseline_peak_bytes``.
        policies: what the usual policies reach, each peak once.
        with_copies: the same as ``points`` where activations may also be copied beside the device; empty where nobody asked.
    """

    model: str
    device: str
    costs: str
    optimizer: str | None
    baseline_seconds: float
    baseline_peak_bytes: int
    points: tuple[CurvePoint, ...]
    policies: tuple[PolicyPoint, ...]
    with_copies: tuple[CurvePoint, ...] = ()

    @property
    def minimum_bytes(self) -> int:
        """The least budget for which a schedule was found."""
        return self.points[0].budget_bytes

    @property
    def knee(self) -> CurvePoint | None:
        """The point farthest below the straight line between the ends: bytes cost more time below its budget than above it.

        None where the curve is nearly straight.
        """
        return knee_of(self.points)


def knee_of(points: Sequence[CurvePoint]) -> CurvePoint | None:
    """See ``CurveData.knee``; both axes are scaled to the distance of the ends."""
    first, last = points[0], points[-1]
    bytes_apart, time_apart = last.budget_bytes - first.budget_bytes, first.overhead - last.overhead
    if not bytes_apart or time_apart <= 0:
        return None

    def below(point: CurvePoint) -> float:
        return 1 - (point.budget_bytes - first.budget_bytes) / bytes_apart - (point.overhead - last.overhead) / time_apart

    knee = max(points, key=below)
    return knee if below(knee) > _STRAIGHT else None


def curve_document(curve: CurveData) -> dict[str, Any]:
    """``curve`` as plain data, with the budget of its knee: bytes, seconds and fractions, nothing rounded."""
    document: dict[str, Any] = plain(curve)
    knee = None if curve.knee is None else curve.knee.budget_bytes
    return document | {"minimum_bytes": curve.minimum_bytes, "knee_bytes": knee}
