"""The terminal report of a schedule for a whole model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_bytes_both, format_inputs, format_percent, format_seconds
from remat_planner.planner.planning import FREE_OVERHEAD
from remat_planner.planner.reports.copies import LinkUse, OffloadSummary
from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.planner.reports.terminal_widgets import (
    INDENT,
    ActivationTable,
    Bar,
    TimelineChart,
    plain_table,
    section,
    verdict,
)
from remat_planner.planner.reports.whole_summary import ReservedMemory, WholeSummary
from remat_planner.solvers import ORDER_GIVEN

_MUCH_SCATTER = 0.1
"""Of the step; where the ops' seconds scatter more, the report says so."""
_LEAST_SHARE = 0.001  # of the peak; smaller shares are one line together
_UNUSED_SHARE = 0.05  # of the budget; a plan that recomputes and leaves more than this free may not be the best


def whole_facts(summary: WholeSummary, understood: str) -> dict[str, str | Text]:
    """The lines at the top of the report."""
    saved = 1 - summary.peak_bytes / summary.baseline_peak_bytes if summary.baseline_peak_bytes else 0.0
    facts: dict[str, str | Text] = {
        "Model": ", ".join(filter(None, (summary.model, f"{summary.ops:,} ops", costs_in_words(summary)))),
        "Budget": understood + (", on what the GPU's allocator reserves" if summary.budget_on == "reserved" else ""),
        "Peak": f"{format_bytes_both(summary.peak_bytes)}, {format_percent(saved)} below the "
        f"{format_bytes(summary.baseline_peak_bytes)} without recomputation",
        "Time": f"+{format_percent(summary.overhead)} a step: {format_seconds(summary.seconds)} instead of "
        f"{format_seconds(summary.baseline_seconds)}",
        "Proof": proof_in_words(summary),
    }
    if summary.ranges:
        facts["Sizes"] = (
            f"{', '.join(summary.ranges)}: {len(summary.forms)} schedules. A size runs by one for larger sizes, "
            "for which no storage of its step is smaller: that is proven for all sizes"
        )
    if summary.inexact:
        facts["Bits"] = f"close to eager's, not equal: {', '.join(summary.inexact)}"
    unused = 1 - summary.peak_bytes / summary.budget_bytes
    if unused > _UNUSED_SHARE and summary.overhead > FREE_OVERHEAD and summary.status != "optimal":
        share = format_percent(unused)
        facts["Unused"] = f"{share} of the budget, while it recomputes: a longer --time-limit may find a faster plan"
    if summary.scatter > _MUCH_SCATTER:
        facts["Times"] = (
            f"scatter by {format_percent(summary.scatter)}: the machine was busy while ops were measured, so the extra time "
            "may be off by points; plan on a quiet machine, or see what a real step takes (`--verify`)"
        )
    if summary.training.outputs == "dropped":
        facts["Outputs"] = "dropped by the training loop before its backward: one that holds them takes more than the peak"
    elif (held := summary.held_outputs) is not None:
        facts["Outputs"] = (
            f"{format_bytes(held.bytes)} of the peak's {format_bytes(summary.peak_bytes)} are held by the loop through the "
            f"backward; dropped before it, as in criterion(model(x), y).backward(), with a plan for that (--outputs dropped): "
            f"{format_bytes(held.dropped_peak_bytes)}"
        )
    if summary.offload is not None:
        facts |= _offload(summary.offload, summary.seconds)
    if (instead := summary.copies_instead) is not None:
        facts["Copies"] = (
            f"on paper +{format_percent(instead.overhead)} instead, with {format_bytes(instead.host_bytes)} on the host; not a "
            "promise, but what a few seconds found: `--offload host --host-budget BYTES` plans it"
        )
    if summary.reserved is not None:
        facts["Allocator"] = _allocator(summary.reserved)
    if summary.pinned:
        count = len(summary.pinned)
        ops, them = ("op", "it") if count == 1 else ("ops", "them")
        facts["Once"] = f"{count:,} {ops} must never run twice (draws, updates, ...); `plan show` lists {them}"
    return facts


def whole_sections(summary: WholeSummary) -> Iterator[RenderableType]:
    """The tables and drawings below."""
    if len(summary.forms) > 1:
        yield section("Forms of input, each by its own schedule", _forms(summary))
    yield section("Policies at this budget", _comparison(summary))
    yield section(f"Memory at the peak ({summary.peak_moment})", _memory(summary))
    if summary.activations:
        yield section("Largest activations that the backward needs", ActivationTable(summary.activations))
        if any(group.decision == "deferred" for group in summary.activations):
            yield Padding(Text("deferred: computed once, in the backward, where it is first read", style="dim"), INDENT)
    yield section("Memory over one step", TimelineChart(summary.curve, _links(summary.offload)))


def whole_headline(summary: WholeSummary) -> list[str]:
    """Time and proof in a few words."""
    copied = {} if summary.offload is None else summary.offload.pools
    copies = [f"{format_bytes(pool.bytes)} copied to the {name}" for name, pool in copied.items() if pool.bytes]
    close = [f"bits close to eager's ({', '.join(summary.inexact)})"] if summary.inexact else []
    return [f"time +{format_percent(summary.overhead)}", *copies, *close, proof_in_words(summary)]


def pinned_report(summary: WholeSummary) -> RenderableType:
    """The ops that run exactly once whatever the budget, counted by reason and operator."""
    counts = pinned_counts(summary)
    table = plain_table(header=False)
    for (reason, kind), count in counts:
        table.add_row(f"{count:,}", Text(kind), Text(reason))
    return section("Ops that run exactly once", table if counts else Text("none"))


def pinned_counts(summary: WholeSummary) -> list[tuple[tuple[str, str], int]]:
    """The ops that run exactly once: reason and operator with their number, most first."""
    return Counter((op.reason, short_operator(op.kind)) for op in summary.pinned).most_common()


def costs_in_words(summary: WholeSummary) -> str:
    """Where the seconds come from."""
    if summary.costs == "measure":
        return f"costs measured on {summary.device}"
    return f"costs predicted, from {summary.costs}" if summary.costs else ""


def proof_in_words(summary: WholeSummary) -> str:
    """How near to the best the plan is, and under which assumption that is proven."""
    assumption = summary.assumption.replace(ORDER_GIVEN, "among schedules that run each op first in eager's order")
    within = f" ({assumption})" if assumption else ""
    if summary.status == "optimal":
        return f"optimal{within}"
    least = f"none takes less than +{format_percent(summary.bound_overhead)}{within}"
    return f"within {format_percent(summary.gap)} of a step of the best: {least}"


def _offload(offload: OffloadSummary, seconds: float) -> dict[str, str | Text]:
    """A line for each pool, and one for the stalls."""
    facts: dict[str, str | Text] = {}
    for number, (name, pool) in enumerate(offload.pools.items()):
        facts[name.capitalize()] = f"{format_bytes(pool.bytes)} of copies, of {format_bytes(pool.budget_bytes)}"
        for way, use in (("out", pool.outgoing), ("in", pool.incoming)):
            busy = format_percent(use.busy_seconds / seconds if seconds else 0.0)
            rate = f"{format_bytes(use.bytes_per_second)}/s ({use.source})"
            title = " " * (2 * number + (way == "in"))  # no two facts have the same
            facts[title] = f"{format_bytes(use.bytes)} {way} at {rate}, {busy} of the step"
    facts["Stalls"] = f"{format_seconds(offload.stalled_seconds)} a step wait for copies" if offload.stalled_seconds else "none"
    return facts


def _links(offload: OffloadSummary | None) -> dict[str, LinkUse]:
    """The directions of all links that copy anything, by what the timeline calls them."""
    uses: dict[str, LinkUse] = {}
    for name, pool in ({} if offload is None else offload.pools).items():
        uses |= {f"to {name}": pool.outgoing, f"from {name}": pool.incoming}
    return {name: use for name, use in uses.items() if use.spans}


def _allocator(reserved: ReservedMemory) -> str:
    line = (
        f"hands out {format_bytes(reserved.allocated_bytes)} and reserves {format_bytes(reserved.bytes)} at the most, "
        f"{format_percent(reserved.fragmentation)} of that for fragmentation"
    )
    return line if reserved.setting is None else f"{line}; {format_bytes(reserved.expandable_bytes)} with {reserved.setting}"


def _forms(summary: WholeSummary) -> Table:
    table = plain_table()
    table.add_column("inputs")
    for title in ("peak", "without recomputation", "extra time"):
        table.add_column(title, justify="right", no_wrap=True)
    for form in summary.forms:
        peaks = (format_bytes(form.peak_bytes), format_bytes(form.baseline_peak_bytes))
        table.add_row(Text(format_inputs(form.inputs)), *peaks, f"+{format_percent(form.overhead)}")
    return table


def _comparison(summary: WholeSummary) -> Table:
    table = plain_table()
    table.add_column("policy")
    table.add_column("peak", justify="right")
    table.add_column("extra time", justify="right")
    table.add_column("budget")
    for policy in summary.comparison:
        cells = (policy.solver, format_bytes(policy.peak_bytes), f"+{format_percent(policy.overhead)}")
        table.add_row(*cells, verdict(policy.fits, "met", "exceeded"))
    table.add_row(
        Text(f"this plan ({summary.solver})"),
        format_bytes(summary.peak_bytes),
        f"+{format_percent(summary.overhead)}",
        verdict(True, "met", ""),
        style="bold",
    )
    table.add_row("no plan can take less than", "", f"+{format_percent(summary.bound_overhead)}", "", style="dim")
    return table


def _memory(summary: WholeSummary) -> Table:
    table = plain_table(header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    least = _LEAST_SHARE * summary.peak_bytes
    rows = {name: size for name, size in summary.memory_at_peak.items() if size >= least}
    if small := [size for size in summary.memory_at_peak.values() if size < least]:
        rows["other"] = sum(small)
    for name, size in rows.items():
        share = size / summary.peak_bytes
        table.add_row(Text(name), format_bytes(size), format_percent(share), Bar(share))
    return table
