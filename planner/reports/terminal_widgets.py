"""TODO: ."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from remat_planner.planner.formatting import format_bytes
from remat_planner.planner.reports.activations import Activations
from remat_planner.planner.reports.timeline import ASCII, UNICODE, budget_line, draw_timeline, memory_timeline, top_bytes
from remat_planner.schedules import Schedule

if TYPE_CHECKING:
    pass
_MOST_ACTIVATIONS = 8
_TIMELINE_HEIGHT = 8
_TIMELINE_WIDTH = 100
_BAR_WIDTH = 24
GAP = "  "
_WIDE = 100  # columns from which shapes and dtypes are shown


class Bar:
    """A share as a bar."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = "#" if options.ascii_only else "▏▎▍▌▋▊▉█"
        level = round(self.share * _BAR_WIDTH * len(parts))
        full, rest = divmod(level, len(parts))
        yield Text(parts[-1] * full + (parts[rest - 1] if rest else ""), style="blue")


class ActivationTable:
    """The largest activations; columns that a narrow terminal has no room for are left out."""

    def __init__(self, activations: list[Activations]) -> None:
        self.activations = activations

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        times = "x" if options.ascii_only else "\N{MULTIPLICATION SIGN}"
        shown = self.activations[:_MOST_ACTIVATIONS]
        columns = {
            "bytes": [format_bytes(group.bytes) for group in shown],
            "": [f"{times}{group.count}" if group.count > 1 else "" for group in shown],
            "decision": [group.decision + (f" {times}{group.times}" if group.times > 1 else "") for group in shown],
            "op": [short(group.kind) for group in shown],
        }
        if options.max_width >= _WIDE:
            columns["each"] = [f"{group.dtype}[{', '.join(map(str, group.shape))}]" for group in shown]
        widths = [max(len(name), *map(len, cells)) for name, cells in columns.items()]
        left = options.max_width - sum(widths) - len(GAP) * (len(widths) + 1)
        modules = [group.module for group in shown]
        lines = [PurePath(group.source).name for group in shown]
        line_width = min(max(map(len, lines)), left // 2)
        ellipsis = ".." if options.ascii_only else "…"
        columns["line"] = [_tail(line, line_width, ellipsis) for line in lines]
        columns["module"] = [_tail(module, left - line_width, ellipsis) for module in modules]
        table = plain_table()
        for name in columns:
            table.add_column(name, justify="right" if name in ("bytes", "") else "left", no_wrap=True)
        for group, cells in zip(shown, zip(*columns.values(), strict=True), strict=True):
            table.add_row(*cells, style="yellow" if group.decision == "recomputed" else "")
        yield table
        rest = self.activations[_MOST_ACTIVATIONS:]
        if rest:
            size = format_bytes(sum(group.bytes for group in rest))
            yield Text(f"and {len(rest)} smaller kinds, {size} together", style="dim")


class TimelineChart:
    """The timeline with its scale and its budget line."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if options.ascii_only else UNICODE
        scale = 10
        width = min(_TIMELINE_WIDTH, max(20, options.max_width - scale - 1))
        timeline = memory_timeline(self.schedule, width)
        top = top_bytes(timeline)
        mark = budget_line(timeline, _TIMELINE_HEIGHT)
        chart = Text(no_wrap=True, overflow="crop")
        for n, line in enumerate(draw_timeline(timeline, _TIMELINE_HEIGHT, glyphs)):
            row = _TIMELINE_HEIGHT - 1 - n
            label = "budget" if row == mark else format_bytes(top) if n == 0 else ""
            chart.append(f"{label:>{scale}} ", style="red" if row == mark else "dim")
            for character in line:
                style = "red" if character == glyphs.budget else "dim" if character == glyphs.unplanned else "blue"
                chart.append(character, style=style)
            chart.append("\n")
        turn = min(timeline.turn, width)
        chart.append(
            " " * (scale + 1) + glyphs.axis * turn + (glyphs.turn + glyphs.axis * (width - turn - 1) if turn < width else "")
        )
        forward, backward = "forward", "backward"
        if turn > len(forward) and width - turn > len(backward):
            chart.append("\n" + " " * (scale + 1) + f"{forward:<{turn}}{backward}", style="dim")
        yield chart
        yield Text(" " * (scale + 1) + f"{glyphs.unplanned} without recomputation", style="dim")


def plain_table(*, header: bool = True) -> Table:
    return Table(box=None, show_header=header, header_style="dim", padding=(0, len(GAP), 0, 0), pad_edge=False)


def _tail(text: str, width: int, ellipsis: str) -> str:
    """The end of ``text``: what tells paths apart stands there."""
    return text if len(text) <= width else ellipsis + text[len(text) - max(0, width - len(ellipsis)) :]


def short(kind: str) -> str:
    """ "addmm" for "aten.addmm.default"."""
    parts = kind.split(".")
    return parts[1] if len(parts) == 3 else kind
