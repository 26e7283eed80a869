"""Parts of the terminal report that fit the terminal's width and encoding, and the layout that all parts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from remat_planner.planner.formatting import format_bytes
from remat_planner.planner.reports.activations import Activations
from remat_planner.planner.reports.copies import LinkUse
from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.planner.reports.timeline import (
    ASCII,
    UNICODE,
    MemoryCurve,
    budget_line,
    draw_link,
    draw_timeline,
    memory_timeline,
    top_bytes,
)

INDENT = (0, 0, 0, 2)
_GAP = 2  # columns between those of a table
_MOST_ACTIVATIONS = 8
_TIMELINE_HEIGHT = 8
_TIMELINE_WIDTH = 100
_SCALE_WIDTH = 10  # columns of the timeline's labels
_BAR_WIDTH = 24
_STYLES: Mapping[str, str] = {"recomputed": "yellow", "copied": "cyan"}
_WIDE = 100  # columns of a terminal with room for shapes and dtypes


class Bar:
    """A share of 0 to 1 as a bar."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = "#" if options.ascii_only else "▏▎▍▌▋▊▉█"
        level = round(self.share * _BAR_WIDTH * len(parts))
        full, rest = divmod(level, len(parts))
        yield Text(parts[-1] * full + (parts[rest - 1] if rest else ""), style="blue")


class ActivationTable:
    """The largest activations; a narrow terminal shows fewer columns."""

    def __init__(self, activations: Sequence[Activations]) -> None:
        self.activations = activations

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, rest = self.activations[:_MOST_ACTIVATIONS], self.activations[_MOST_ACTIVATIONS:]
        columns = self._columns(shown, options)
        table = plain_table()
        for name in columns:
            table.add_column(name, justify="right" if name in ("bytes", "") else "left", no_wrap=True)
        for group, cells in zip(shown, zip(*columns.values(), strict=True), strict=True):
            table.add_row(*map(Text, cells), style=_STYLES.get(group.decision, ""))
        yield table
        if rest:
            size = format_bytes(sum(group.bytes for group in rest))
            yield Text(f"and {len(rest)} smaller kinds, {size} together", style="dim")

    @staticmethod
    def _columns(shown: Sequence[Activations], options: ConsoleOptions) -> dict[str, list[str]]:
        """The cells of each column; line and module get the width that the others leave, line at most half of it."""
        times = "x" if options.ascii_only else "\N{MULTIPLICATION SIGN}"
        columns = {
            "bytes": [format_bytes(group.bytes) for group in shown],
            "": [f"{times}{group.count}" if group.count > 1 else "" for group in shown],
            "decision": [group.decision + (f" {times}{group.times}" if group.times > 1 else "") for group in shown],
            "op": [short_operator(group.kind) for group in shown],
        }
        if options.max_width >= _WIDE:
            columns["each"] = [f"{group.dtype}[{', '.join(map(str, group.shape))}]" for group in shown]
        widths = [max(len(name), *map(len, cells)) for name, cells in columns.items()]
        left = options.max_width - sum(widths) - _GAP * (len(widths) + 1)
        lines = [PurePath(group.source).name for group in shown]
        line_width = min(max(map(len, lines)), left // 2)
        ellipsis = ".." if options.ascii_only else "…"
        columns["line"] = [_tail(line, line_width, ellipsis) for line in lines]
        columns["module"] = [_tail(group.module, left - line_width, ellipsis) for group in shown]
        return columns


class TimelineChart:
    """The timeline with its scale, its budget line and its axis, and below it a line for each direction of a link."""

    def __init__(self, curve: MemoryCurve, links: Mapping[str, LinkUse]) -> None:
        self.curve, self.links = curve, links

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if options.ascii_only else UNICODE
        margin = " " * (_SCALE_WIDTH + 1)
        width = min(_TIMELINE_WIDTH, max(20, options.max_width - len(margin)))
        timeline = memory_timeline(self.curve, width)
        budget_row = budget_line(timeline, _TIMELINE_HEIGHT)
        chart = Text(no_wrap=True, overflow="crop")
        for n, line in enumerate(draw_timeline(timeline, _TIMELINE_HEIGHT, glyphs)):
            at_budget = _TIMELINE_HEIGHT - 1 - n == budget_row
            label = "budget" if at_budget else format_bytes(top_bytes(timeline)) if n == 0 else ""
            chart.append(f"{label:>{_SCALE_WIDTH}} ", style="red" if at_budget else "dim")
            for character in line:
                style = "red" if character == glyphs.budget else "dim" if character == glyphs.unplanned else "blue"
                chart.append(character, style=style)
            chart.append("\n")
        turn = min(timeline.turn, width)
        chart.append(margin + glyphs.axis * turn + (glyphs.turn + glyphs.axis * (width - turn - 1) if turn < width else ""))
        if turn > len("forward") and width - turn > len("backward"):
            chart.append("\n" + margin + f"{'forward':<{turn}}backward", style="dim")
        seconds = float(self.curve.planned.seconds.sum())
        for name, use in self.links.items():
            chart.append(f"\n{name:>{_SCALE_WIDTH}} ", style="dim")
            chart.append(draw_link(use.spans, seconds, width, glyphs), style="yellow")
        yield chart
        yield Text(f"{margin}{glyphs.unplanned} without recomputation", style="dim")


def plain_table(*, header: bool = True) -> Table:
    """An empty table without lines."""
    return Table(box=None, show_header=header, header_style="dim", padding=(0, _GAP, 0, 0), pad_edge=False)


def fact_table(facts: Mapping[str, str | Text]) -> Table:
    """Facts under bold titles; an empty title continues the fact above it."""
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, fact in facts.items():
        table.add_row(title, fact if isinstance(fact, Text) else Text(fact))
    return table


def section(title: str, body: RenderableType) -> RenderableType:
    """``body`` under a bold title."""
    return Group(Text(f"\n{title}", style="bold"), Padding(body, INDENT, expand=False))


def verdict(good: bool, yes: str, no: str) -> Text:
    """``yes`` in green or ``no`` in red."""
    return Text(yes, style="green") if good else Text(no, style="red")


def _tail(text: str, width: int, ellipsis: str) -> str:
    """The end of ``text``, which is what distinguishes paths."""
    return text if len(text) <= width else ellipsis + text[len(text) - max(0, width - len(ellipsis)) :]
