"""The report of a schedule by regions: on a terminal, in a line, and as a JSON document."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_percent, format_seconds
from remat_planner.planner.planning import merged_names
from remat_planner.planner.regions import Part
from remat_planner.planner.reports.json_document import REPORT_VERSION, verification_document
from remat_planner.schedules import RegionSchedule

if TYPE_CHECKING:
    from remat_planner.planner.measurement import Verification

_INDENT = (0, 0, 0, 2)


def region_report(schedule: RegionSchedule, *, understood: str) -> RenderableType:
    """The whole report; ``understood`` says what the budget was taken to mean."""
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    facts.add_row("Model", f"{schedule.origin.model}, {len(schedule.regions)} regions planned, the rest as it is")
    facts.add_row("Budget", understood)
    saved = 1 - schedule.peak_bytes / schedule.baseline_peak_bytes if schedule.baseline_peak_bytes else 0.0
    without = f"{format_percent(saved)} below the {format_bytes(schedule.baseline_peak_bytes)} without recomputation"
    facts.add_row("Peak", f"{format_bytes(schedule.peak_bytes)}, measured, {without}")
    times = f"{format_seconds(schedule.seconds)} instead of {format_seconds(schedule.baseline_seconds)}"
    facts.add_row("Time", f"+{format_percent(schedule.overhead)} in the regions: {times} a step")
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("regions", "calls", "held each", "of", "extra time each"):
        table.add_column(title, justify="left" if title == "regions" else "right")
    for row in _rows(schedule):
        table.add_row(
            merged_names(row["regions"]),
            str(row["calls"]),
            format_bytes(row["held_bytes"]),
            format_bytes(row["baseline_held_bytes"]),
            format_seconds(row["extra_seconds"]),
        )
    return Group(facts, Text("\nRegions by their schedules", style="bold"), Padding(table, _INDENT))


def region_line(schedule: RegionSchedule, verification: Verification | None = None) -> str:
    """The plan in a line."""
    parts = [
        f"peak {format_bytes(schedule.peak_bytes)} of {format_bytes(schedule.baseline_peak_bytes)}",
        f"time in {len(schedule.regions)} regions +{format_percent(schedule.overhead)}",
    ]
    if verification is not None:
        met = "" if verification.within_budget else " (BUDGET EXCEEDED)"
        parts.append(f"measured {format_bytes(verification.measured_peak_bytes)}{met}")
        parts.append("bits identical" if verification.identical else "BITS DIFFER")
    return ", ".join(parts)


def region_hint(path: str) -> RenderableType:
    """The lines that train with the schedule in ``path``."""
    lines = (
        "import remat_planner",
        f"schedule = remat_planner.RegionSchedule.load({path!r})",
        "model = remat_planner.apply_schedule(model, schedule)",
    )
    return Group(
        Text.assemble("\nSchedule written to ", (path, "bold"), ". To train with it:"),
        Padding(Text("\n".join(lines), style="cyan"), _INDENT),
    )


def region_document(
    schedule: RegionSchedule, *, verification: Verification | None = None, path: str | None = None
) -> dict[str, Any]:
    """The report as one document: bytes, seconds and fractions, nothing rounded."""
    return {
        "report_version": REPORT_VERSION,
        "model": schedule.origin.model,
        "device": schedule.origin.device,
        "costs": schedule.origin.costs,
        "optimizer": schedule.origin.optimizer,
        "budget_bytes": schedule.budget,
        "peak_bytes": schedule.peak_bytes,
        "baseline_peak_bytes": schedule.baseline_peak_bytes,
        "constants": dict(schedule.constants),
        "region_seconds": schedule.seconds,
        "baseline_region_seconds": schedule.baseline_seconds,
        "region_overhead": schedule.overhead,
        "regions": _rows(schedule),
        "verification": verification_document(verification) if verification is not None else None,
        "schedule": path,
    }


def _rows(schedule: RegionSchedule) -> list[dict[str, Any]]:
    """The regions with equal schedules together, what each holds for its backward and what its recomputation takes."""
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name, region in schedule.regions.items():
        alike[region.fingerprint, region.steps].append(name)
    rows = []
    for names in alike.values():
        region = schedule.regions[names[0]]
        part = Part.of(region.graph)
        rows.append(
            {
                "regions": names,
                "calls": sum(schedule.calls[name] for name in names),
                "held_bytes": part.option(region.steps).held,
                "baseline_held_bytes": part.option(tuple(range(len(region.graph.ops)))).held,
                "extra_seconds": region.seconds - region.baseline_seconds,
            }
        )
    return rows
