"""What the page says, as plain data: facts, drawings and tables. Both kinds of schedule fill the same structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_inputs, format_percent, format_seconds
from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.reports.activations import Activations
from remat_planner.planner.reports.breakdown import Breakdown
from remat_planner.planner.reports.budget_neighbours import Neighbour
from remat_planner.planner.reports.curve.data import CurveData
from remat_planner.planner.reports.curve.drawing import draw_curve
from remat_planner.planner.reports.drawing import svg_element
from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.planner.reports.page.chart import Chart, memory_chart
from remat_planner.planner.reports.region_summary import RegionSummary
from remat_planner.planner.reports.summary import usage_lines
from remat_planner.planner.reports.terminal_regions import region_facts
from remat_planner.planner.reports.terminal_whole import costs_in_words, pinned_counts, whole_facts
from remat_planner.planner.reports.whole_summary import WholeSummary

_MOST_CHARTS = 4
"""Regions that are drawn, those that retain most."""

OUTSIDE = "(no module)"


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: what it shows.
        order: what it is sorted by: a number, or its text.
        share: a bar behind it, from 0 to 1; None for none.
    """

    text: str
    order: float | str
    share: float | None = None


@dataclass(frozen=True)
class PageTable:
    """A table whose columns sort.

    Attributes:
        title: its heading.
        note: a sentence on how to read it.
        columns: names.
        rows: cells in the order of the columns; numbers are aligned to the right.
        filters: columns with a field that filters by part of the text.
        choices: columns with a list of their values that filters.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    filters: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class CurveDrawing:
    """Extra time against budget as SVG elements in two sizes."""

    wide: str
    narrow: str

    @classmethod
    def of(cls, curve: CurveData) -> CurveDrawing:
        """Draw ``curve``."""
        return cls(svg_element(draw_curve(curve), "curve wide"), svg_element(draw_curve(curve, narrow=True), "curve narrow"))


@dataclass(frozen=True)
class Page:
    """The whole page; ``certificate`` holds sentences, ``usage`` lines of Python."""

    title: str
    facts: Mapping[str, str]
    certificate: tuple[str, ...]
    charts: tuple[Chart, ...]
    curve: CurveDrawing | None
    tables: tuple[PageTable, ...]
    usage: tuple[str, ...]


def page_of(summary: WholeSummary | RegionSummary, understood: str, curve: CurveData | None = None) -> Page:
    """The page of ``summary``; ``understood`` says in words which budget was planned for, ``curve`` what other budgets cost."""
    if isinstance(summary, RegionSummary):
        facts, tables = region_facts(summary, understood), _region_tables(summary)
        certificate, charts = _region_certificate(summary), _region_charts(summary)
    else:
        facts, tables = whole_facts(summary, understood), _whole_tables(summary)
        certificate, charts = _certificate(summary), iter([memory_chart("Memory over one step", summary.curve, budget=True)])
    return Page(
        title=f"{summary.model or 'A step'} within {format_bytes(summary.budget_bytes)}",
        facts={name: fact.plain if isinstance(fact, Text) else fact for name, fact in facts.items()},
        certificate=tuple(certificate),
        charts=tuple(charts),
        curve=None if curve is None else CurveDrawing.of(curve),
        tables=tuple(tables),
        usage=() if summary.schedule is None else usage_lines(summary),
    )


def _certificate(summary: WholeSummary) -> Iterator[str]:
    budget = format_bytes(summary.budget_bytes)
    covers = f"The bound covers this class of schedules: {summary.assumption}." if summary.assumption else ""
    if summary.status == "optimal":
        yield f"Optimal: a bound proves that no schedule within {budget} takes less time. {covers}"
    else:
        yield (
            f"The plan takes {format_percent(summary.overhead)} more time than the step without recomputation. A bound proves "
            f"that no schedule within {budget} takes less than {format_percent(summary.bound_overhead)} more, so a better plan "
            f"saves at most {format_percent(summary.gap)} of a step. {covers}"
        )
    yield (
        f"The peak of {format_bytes(summary.peak_bytes)} is simulated, allocation by allocation, over all {summary.steps:,} "
        "executions. `plan verify` runs the real step, measures its peak and compares every bit with eager's."
    )
    if costs := costs_in_words(summary):
        yield f"Seconds: {costs}."


def _region_certificate(summary: RegionSummary) -> Iterator[str]:
    yield (
        f"The peak of {format_bytes(summary.peak_bytes)} was measured by running the step with these schedules. "
        "No graph covers the code between the regions, so there is no bound on the time."
    )


def _region_charts(summary: RegionSummary) -> Iterator[Chart]:
    largest = sorted(zip(summary.regions, summary.curves, strict=True), key=lambda pair: -pair[0].baseline_held_bytes)
    for group, curve in largest[:_MOST_CHARTS]:
        yield memory_chart(f"Memory over one call of {merged_names(group.regions)}, counted by itself", curve, budget=False)


def _whole_tables(summary: WholeSummary) -> Iterator[PageTable]:
    yield _peak_table(f"At the peak, by kind of memory ({summary.peak_moment})", summary.memory_at_peak, summary.peak_bytes)
    yield _breakdown_table("At the peak, by module", "module", summary.modules, summary)
    yield _breakdown_table("At the peak, by operator", "operator", summary.operators, summary)
    yield _activation_table(summary.activations)
    yield _policy_table(summary)
    if len(summary.forms) > 1:
        rows = [
            (
                _text(format_inputs(form.inputs)),
                _bytes(form.peak_bytes),
                _bytes(form.baseline_peak_bytes),
                _percent(form.overhead),
            )
            for form in summary.forms
        ]
        columns = ("inputs", "peak", "without recomputation", "extra time")
        yield PageTable("Forms of input, each by its own schedule", "", columns, tuple(rows))
    if summary.pinned:
        counts = [(_number(count), _text(kind), _text(reason)) for (reason, kind), count in pinned_counts(summary)]
        yield PageTable("Ops that run exactly once", "Whatever the budget.", ("ops", "operator", "why"), tuple(counts))


def _region_tables(summary: RegionSummary) -> Iterator[PageTable]:
    if summary.constants:
        total = sum(summary.constants.values())
        yield _peak_table("Resident throughout", {name: size for name, size in summary.constants.items() if size}, total)
    rows = [
        (
            _text(merged_names(group.regions)),
            _number(group.calls),
            _bytes(group.held_bytes),
            _bytes(group.baseline_held_bytes),
            _seconds(group.extra_seconds),
        )
        for group in summary.regions
    ]
    columns = ("regions", "calls", "retains each", "without recomputation", "extra time each")
    note = "What a region retains from its forward to its backward, its outputs excluded."
    yield PageTable("Regions by their schedules", note, columns, tuple(rows))
    yield _activation_table(summary.activations)


def _peak_table(title: str, sizes: Mapping[str, int], total: int) -> PageTable:
    rows = [
        (_text(name), _bytes(size, total), _percent(size / total))
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
    ]
    return PageTable(title, "", ("memory", "bytes", "share"), tuple(rows))


def _breakdown_table(title: str, column: str, rows: Sequence[Breakdown], summary: WholeSummary) -> PageTable:
    cells = [
        (
            _text(row.name or OUTSIDE),
            _bytes(row.peak_bytes, summary.peak_bytes),
            _bytes(row.baseline_peak_bytes),
            _number(row.recomputations),
            _seconds(row.seconds),
            Cell("?", -1) if row.saved_bytes is None else _bytes(row.saved_bytes),
        )
        for row in rows
    ]
    note = (
        "What these ops hold at the peak of this plan, and at the peak without recomputation. “Saves” is how much higher "
        "the peak would be if these ops ran once and all else stayed: 0 where another moment is as high."
    )
    columns = (column, "at the peak", "without plan", "recomputed", "time", "saves")
    return PageTable(title, note, columns, tuple(cells), filters=(column,))


def _activation_table(activations: Sequence[Activations]) -> PageTable:
    rows = [
        (
            _bytes(group.bytes),
            _number(group.count),
            _text(group.decision + (f", {group.times} times each" if group.times > 1 else "")),
            _text(short_operator(group.kind)),
            _text(group.module or OUTSIDE),
            _text(f"{group.dtype}[{', '.join(map(str, group.shape))}]"),
            _text(group.source),
        )
        for group in activations
    ]
    columns = ("bytes", "count", "decision", "operator", "module", "each", "line")
    note = "What the backward reads of the forward. Deferred: computed once, in the backward, where it is first read."
    return PageTable("Activations", note, columns, tuple(rows), filters=("module",), choices=("decision",))


def _policy_table(summary: WholeSummary) -> PageTable:
    rows = [(_text(p.solver), _bytes(p.peak_bytes), _percent(p.overhead), _met(p.fits)) for p in summary.comparison]
    rows.append((_text(f"this plan ({summary.solver})"), _bytes(summary.peak_bytes), _percent(summary.overhead), _met(True)))
    rows += map(_neighbour_row, summary.neighbours)
    columns = ("policy", "peak", "extra time", "budget")
    return PageTable("Policies at this budget, and a little more or less memory", "", columns, tuple(rows))


def _neighbour_row(neighbour: Neighbour) -> tuple[Cell, Cell, Cell, Cell]:
    more = "more" if neighbour.difference_bytes > 0 else "less"
    name = f"a plan with {format_bytes(abs(neighbour.difference_bytes))} {more}, after a short search"
    budget = Cell(f"within {format_bytes(neighbour.budget_bytes)}", neighbour.budget_bytes)
    if neighbour.overhead is None:
        return _text(name), budget, Cell("none found", float("inf")), _text("")
    least, most = format_percent(neighbour.bound_overhead), format_percent(neighbour.overhead)
    range_of = most if least == most else f"{least} to {most}"
    return _text(name), budget, Cell(range_of, neighbour.overhead), _text("")


def _met(fits: bool) -> Cell:
    return _text("met" if fits else "exceeded")


def _text(text: str) -> Cell:
    return Cell(text, text)


def _number(number: int) -> Cell:
    return Cell(f"{number:,}" if number else "-", number)


def _bytes(size: int, total: int | None = None) -> Cell:
    return Cell(format_bytes(size) if size else "-", size, size / total if total else None)


def _seconds(seconds: float) -> Cell:
    return Cell(format_seconds(seconds) if seconds else "-", seconds)


def _percent(share: float) -> Cell:
    return Cell(format_percent(share), share)
