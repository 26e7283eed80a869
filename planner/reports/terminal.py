"""The report of a plan on a terminal: its cost, its distance from the best, its memory and its decisions."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_percent, format_seconds
from remat_planner.planner.reports.region_summary import RegionSummary
from remat_planner.planner.reports.summary import Summary, VerificationSummary, usage_lines
from remat_planner.planner.reports.terminal_regions import region_facts, region_headline, region_sections
from remat_planner.planner.reports.terminal_whole import whole_facts, whole_headline, whole_sections
from remat_planner.planner.reports.terminal_widgets import INDENT, fact_table, section, verdict
from remat_planner.planner.reports.whole_summary import WholeSummary

_MOST_NAMES = 4  # of what differs from eager


def plan_report(summary: WholeSummary | RegionSummary, *, understood: str) -> RenderableType:
    """The whole report; ``understood`` says in words which budget was planned for."""
    if isinstance(summary, RegionSummary):
        facts, sections = region_facts(summary, understood), region_sections(summary)
    else:
        facts, sections = whole_facts(summary, understood), whole_sections(summary)
    return Group(fact_table(facts), *sections)


def one_line(summary: WholeSummary | RegionSummary) -> str:
    """The plan in a line."""
    parts = [f"peak {format_bytes(summary.peak_bytes)} of {format_bytes(summary.baseline_peak_bytes)}"]
    parts += region_headline(summary) if isinstance(summary, RegionSummary) else whole_headline(summary)
    if (verification := summary.verification) is not None:
        exceeded = "" if verification.within_budget else " (BUDGET EXCEEDED)"
        parts.append(f"measured {format_bytes(verification.measured_peak_bytes)}{exceeded}")
        as_promised = "as close as promised" if verification.as_promised else "BITS DIFFER"
        parts.append("bits identical" if verification.identical else as_promised)
    else:
        parts.append("not verified")
    return ", ".join(parts)


def verification_report(verification: VerificationSummary | None, why_not: str = "") -> RenderableType:
    """Predicted against measured, and whether every bit is the same; or ``why_not``, where nothing was run."""
    if verification is None:
        return section("Not verified", Text(why_not))
    measured, predicted = verification.measured_peak_bytes, verification.predicted_peak_bytes
    off = format_percent((measured - predicted) / predicted if predicted else 0.0)
    differing = ", ".join(verification.differences[:_MOST_NAMES])
    if len(verification.differences) > _MOST_NAMES:
        differing += f" and {len(verification.differences) - _MOST_NAMES} more"
    facts: dict[str, str | Text] = {
        "Measured": f"{format_bytes(measured)} at the peak; predicted {format_bytes(predicted)}, off by {off}",
        "Budget": verdict(verification.within_budget, "met when run", "exceeded when run"),
        **{f"On {name}": f"{format_bytes(size)} of copies" for name, size in verification.pool_bytes.items()},
        "Bits": verdict(verification.as_promised, _bits(verification), f"not those of eager: {differing}"),
    }
    if times := _times(verification):
        facts["Time"] = times
    if verification.nondeterministic:
        facts["Left out"] = f"what eager does not repeat itself: {len(verification.nondeterministic):,} values"
    if verification.part:
        facts["Run on"] = verification.part
    return section("Verified by running it", fact_table(facts))


def _bits(verification: VerificationSummary) -> str:
    """How the bits compare with eager's, where they do as the plan promises."""
    if verification.identical:
        return "loss, gradients and state equal eager's, bit for bit"
    largest = f"the largest difference is {verification.largest_difference:.1g} of a tensor's largest number"
    return f"close to eager's ({', '.join(verification.inexact)}): {largest}"


def _times(verification: VerificationSummary) -> str:
    """Measured and predicted extra time; "" where it was not measured."""
    times = verification.times
    if times is None:
        return ""
    steps = len(times.overheads)
    apart = f" (from {min(times.overheads):+.1%} to {max(times.overheads):+.1%} in {steps} steps)" if steps > 1 else ""
    return (
        f"{times.overhead:+.1%} beside eager's steps before and after{apart}; predicted {times.predicted_overhead:+.1%}; "
        f"{format_seconds(times.planned)} a step"
    )


def usage_hint(summary: Summary, *, disk_folder: Path | None = None) -> RenderableType:
    """The lines that train with the schedule in the summary's file, whose copies to a disk go to ``disk_folder``.

    Raises:
        ValueError: the schedule is in no file.
    """
    lines = usage_lines(summary, disk_folder=disk_folder)
    return Group(
        Text.assemble("\nSchedule written to ", (summary.schedule or "", "bold"), ". To train with it:"),
        Padding(Text("\n".join(lines), style="cyan"), INDENT),
    )
