"""The curve on a terminal: a drawing in text, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_percent, format_seconds
from remat_planner.planner.reports.curve.data import CurveData, CurvePoint
from remat_planner.planner.reports.curve.drawing import highest_overhead
from remat_planner.planner.reports.terminal_widgets import fact_table, plain_table, section
from remat_planner.solvers import ORDER_GIVEN

_HEIGHT, _WIDTH = 12, 72
_LABELS = 9  # columns of the scale
_MARKS = {"every-n": "n", "chen": "c", "none": "x"}


def curve_report(curve: CurveData) -> RenderableType:
    """Facts, drawing and tables."""
    knee = curve.knee
    facts: dict[str, str | Text] = {
        "Model": f"{curve.model or 'a step'}, {format_seconds(curve.baseline_seconds)} a step without recomputation",
        "Least": f"{format_bytes(curve.minimum_bytes)}, the least budget for which a schedule was found",
        "Peak": f"{format_bytes(curve.baseline_peak_bytes)} without recomputation",
    }
    if knee is not None:
        facts["Knee"] = f"{format_bytes(knee.budget_bytes)} at +{format_percent(knee.overhead)}, where the curve bends most"
    parts: list[RenderableType] = [
        fact_table(facts),
        section("Extra time against budget", _Plot(curve)),
        section("Budgets", Group(_points(curve, curve.points), Text(_covered(curve.points), style="dim"))),
    ]
    if curve.with_copies:
        table = Group(_points(curve, curve.with_copies), Text(_covered(curve.with_copies), style="dim"))
        parts.append(section("Budgets, with copies beside the device", table))
    if curve.policies:
        parts.append(section("The usual policies", _policies(curve)))
    return Group(*parts)


def _covered(points: Sequence[CurvePoint]) -> str:
    """What the bounds cover, in words."""
    in_words = {ORDER_GIVEN: "schedules that run each op first in eager's order"}
    classes = dict.fromkeys(in_words.get(point.assumption, point.assumption) for point in points if point.assumption)
    return f"Bounds and proofs cover {', or '.join(classes)}." if classes else ""


def _points(curve: CurveData, points: Sequence[CurvePoint]) -> Table:
    table = plain_table()
    for title in ("budget", "of the peak", "extra time", "at least"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("proof")
    for point in points:
        share = point.budget_bytes / curve.baseline_peak_bytes if curve.baseline_peak_bytes else 1.0
        times = (f"+{format_percent(point.overhead)}", f"+{format_percent(point.bound_overhead)}")
        remark = point.status + (", knee" if point == curve.knee else "")
        table.add_row(format_bytes(point.budget_bytes), format_percent(share), *times, Text(remark))
    return table


def _policies(curve: CurveData) -> Table:
    table = plain_table()
    table.add_column("policy")
    for title in ("peak", "extra time"):
        table.add_column(title, justify="right")
    for policy in curve.policies:
        table.add_row(policy.solver, format_bytes(policy.peak_bytes), f"+{format_percent(policy.overhead)}")
    return table


class _Plot:
    """The points in a grid of characters, as wide as the terminal allows."""

    def __init__(self, curve: CurveData) -> None:
        self.curve = curve

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(_WIDTH, max(20, options.max_width - _LABELS - 2))
        dot, ring, bound, axis, side = "o@.-|" if options.ascii_only else "●◉·─│"
        top = highest_overhead(self.curve)
        grid = [[" "] * width for _ in range(_HEIGHT)]
        for column, row, mark in self._marks(width, top, (dot, ring, bound)):
            grid[row][column] = mark
        for row in range(_HEIGHT - 1, -1, -1):
            label = f"+{format_percent(top)}" if row == _HEIGHT - 1 else "+0.00 %" if row == 0 else ""
            yield Text(f"{label:>{_LABELS}} {side}{''.join(grid[row])}", no_wrap=True, overflow="crop")
        first, last = (format_bytes(point.budget_bytes) for point in (self.curve.points[0], self.curve.points[-1]))
        margin = " " * (_LABELS + 1)
        yield Text(f"{margin}{side}{axis * width}", no_wrap=True, overflow="crop")
        yield Text(f"{margin} {first}{last:>{max(1, width - len(first))}}", no_wrap=True, overflow="crop")
        used = {policy.solver for policy in self.curve.policies}
        keys = [f"{dot} plan", f"{ring} knee", f"{bound} bound", *(f"{_MARKS[name]} {name}" for name in _MARKS if name in used)]
        yield Text(f"{margin} {'   '.join(keys)}", style="dim", overflow="fold")

    def _marks(self, width: int, top: float, plan: tuple[str, str, str]) -> Iterator[tuple[int, int, str]]:
        """Column, row and character of each mark; later ones cover earlier ones."""
        dot, ring, bound = plan
        first, last = self.curve.points[0].budget_bytes, self.curve.points[-1].budget_bytes

        def place(size: int, overhead: float) -> tuple[int, int]:
            column = round((size - first) / max(1, last - first) * (width - 1))
            return column, round(min(1.0, overhead / top) * (_HEIGHT - 1))

        for point in self.curve.points:
            yield *place(point.budget_bytes, point.bound_overhead), bound
        for policy in self.curve.policies:
            if policy.overhead <= top and first <= policy.peak_bytes <= last:
                yield *place(policy.peak_bytes, policy.overhead), _MARKS.get(policy.solver, "?")
        for point in self.curve.points:
            yield *place(point.budget_bytes, point.overhead), ring if point == self.curve.knee else dot
