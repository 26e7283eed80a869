"""The terminal report of a schedule by regions."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_percent, format_seconds
from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.reports.region_summary import RegionSummary
from remat_planner.planner.reports.terminal_widgets import plain_table, section


def region_facts(summary: RegionSummary, understood: str) -> dict[str, str | Text]:
    """The lines at the top of the report."""
    saved = 1 - summary.peak_bytes / summary.baseline_peak_bytes if summary.baseline_peak_bytes else 0.0
    copied = {f"On {name}": f"{format_bytes(size)} of copies" for name, size in summary.pool_bytes.items()}
    return {
        "Model": f"{summary.model}, {_count(summary)} regions planned, the rest as it is",
        "Budget": understood,
        "Peak": f"{format_bytes(summary.peak_bytes)}, measured, {format_percent(saved)} below the "
        f"{format_bytes(summary.baseline_peak_bytes)} without recomputation",
        "Time": f"+{format_percent(summary.region_overhead)} in the regions: {format_seconds(summary.region_seconds)} "
        f"instead of {format_seconds(summary.baseline_region_seconds)} a step",
        **copied,
    }


def region_sections(summary: RegionSummary) -> Iterator[RenderableType]:
    """The table below."""
    yield section("Regions by their schedules", _regions(summary))


def region_headline(summary: RegionSummary) -> list[str]:
    """The time in a few words."""
    return [f"time in {_count(summary)} regions +{format_percent(summary.region_overhead)}"]


def _count(summary: RegionSummary) -> int:
    return sum(len(group.regions) for group in summary.regions)


def _regions(summary: RegionSummary) -> Table:
    table = plain_table()
    copied = bool(summary.pool_bytes)
    for title in ("regions", "calls", "held each", "of", *(["copied each"] if copied else []), "extra time each"):
        table.add_column(title, justify="left" if title == "regions" else "right")
    for group in summary.regions:
        table.add_row(
            Text(merged_names(group.regions)),
            str(group.calls),
            format_bytes(group.held_bytes),
            format_bytes(group.baseline_held_bytes),
            *([format_bytes(group.copied_bytes)] if copied else []),
            format_seconds(group.extra_seconds),
        )
    return table
