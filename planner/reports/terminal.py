"""The report of a plan on a terminal: what it costs, how near to the best it is, where the memory goes, what was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_bytes_both, format_inputs, format_percent, format_seconds
from remat_planner.planner.gpu_allocator import Reserved, reserved_by
from remat_planner.planner.reports.activations import saved_activations
from remat_planner.planner.reports.explanation import Explanation
from remat_planner.planner.reports.peak_memory import memory_at_peak, peak_is_update
from remat_planner.planner.reports.policy_comparison import Row
from remat_planner.planner.reports.terminal_widgets import GAP, ActivationTable, Bar, TimelineChart, plain_table, short
from remat_planner.schedules import Schedule

if TYPE_CHECKING:
    from remat_planner.planner.measurement import Verification

_INDENT = (0, 0, 0, 2)
_MOST_EXPLANATIONS = 5
_LEAST_SHARE = 0.001  # of the peak: what is less is not worth a line


def plan_report(schedule: Schedule, comparison: Sequence[Row], *, understood: str) -> RenderableType:
    """The whole report; ``understood`` says what the budget was taken to mean."""
    return Group(
        _summary(schedule, understood),
        *([_section("Forms of input, each by its own schedule", forms_table(schedule))] if schedule.companions else ()),
        _section("Policies at this budget", _comparison(schedule, comparison)),
        *activation_report(schedule),
    )


def forms_table(schedule: Schedule) -> Table:
    """Each form of input that was planned for, with what its own schedule takes; the report is of the first one."""
    table = plain_table()
    table.add_column("inputs")
    for title in ("peak", "without recomputation", "extra time"):
        table.add_column(title, justify="right", no_wrap=True)
    for form in schedule.forms:
        peaks = (format_bytes(form.peak_bytes), format_bytes(form.baseline_peak_bytes))
        table.add_row(format_inputs(form.origin.inputs), *peaks, f"+{format_percent(form.overhead)}")
    return table


def activation_report(schedule: Schedule) -> Iterator[RenderableType]:
    """Where the memory goes, what was decided about the largest activations, and the timeline."""
    peak = schedule.graph.ops[schedule.steps[schedule.simulation.peak_step]]
    where = f" of {peak.module}" if peak.module else ""
    when = "optimizer's step" if peak_is_update(schedule) else f"{peak.phase}{where}, {short(peak.kind)}"
    yield _section(f"Memory at the peak ({when})", _memory(schedule))
    activations = saved_activations(schedule)
    if activations:
        yield _section("Largest activations that the backward needs", ActivationTable(activations))
    yield _section("Memory over one step", TimelineChart(schedule))


def verification_report(verification: Verification) -> RenderableType:
    """Predicted against measured, and whether every bit is the same."""
    table = _facts()
    measured, predicted = verification.measured_peak_bytes, verification.predicted_peak_bytes
    off = format_percent((measured - predicted) / predicted if predicted else 0.0)
    table.add_row("Measured", f"{format_bytes(measured)} at the peak; predicted {format_bytes(predicted)}, off by {off}")
    table.add_row("Budget", _verdict(verification.within_budget, "met when run", "exceeded when run"))
    table.add_row(
        "Bits", _verdict(verification.identical, "loss, gradients and buffers equal eager's, bit for bit", "not those of eager")
    )
    return _section("Verified by running it", table)


def pinned_report(schedule: Schedule) -> RenderableType:
    """The ops that run exactly once whatever the budget, counted by reason and operator."""
    counts = Counter((op.pinned, short(op.kind)) for op in schedule.graph.ops if op.pinned is not None)
    table = plain_table(header=False)
    for (reason, kind), count in counts.most_common():
        table.add_row(f"{count:,}", kind, reason)
    return _section("Ops that run exactly once", table if counts else Text("none"))


def explanation_report(schedule: Schedule, explanations: Sequence[Explanation]) -> RenderableType:
    """The ops of ``explanations``, each with its readers, its time and its place in memory."""
    step = schedule.baseline_seconds
    blocks = []
    for found in explanations[:_MOST_EXPLANATIONS]:
        table = _facts()
        share = f" ({format_percent(found.seconds / step)} of a step)" if step else ""
        times = f", {found.runs} times a step" if found.runs > 1 else ""
        table.add_row("decision", found.decision + (f"; must run once: {found.pinned}" if found.pinned else ""))
        table.add_row("makes", f"{', '.join(found.makes)}: {format_bytes(found.bytes)}")
        table.add_row("takes", f"{format_seconds(found.seconds)}{share}{times}")
        table.add_row("read by", _readers("forward", found.forward_readers))
        table.add_row("", _readers("backward", found.backward_readers))
        spans = ", ".join(f"{first:,}-{last:,}" for first, last in found.alive)
        at_peak = "; in memory at the peak" if found.alive_at_peak else "; not in memory at the peak"
        table.add_row("in memory", f"steps {spans} of {len(schedule.steps):,}{at_peak}")
        blocks.append(_section(f"{found.op} ({', '.join(filter(None, (short(found.kind), found.source)))})", table))
    if len(explanations) > _MOST_EXPLANATIONS:
        blocks.append(Text(f"\nand {len(explanations) - _MOST_EXPLANATIONS:,} smaller ones; name more of the op", style="dim"))
    return Group(*blocks)


def _readers(phase: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{phase}: {shown or 'nothing'}"


def usage_hint(schedule: Schedule, path: str) -> RenderableType:
    """The lines that train with the schedule in ``path``."""
    loss = ", loss=loss" if schedule.origin.loss.startswith("the caller's") else ""
    lines = (
        "import remat_planner",
        f"schedule = remat_planner.Schedule.load({path!r})",
        f"model = remat_planner.apply_schedule(model, schedule{loss})",
    )
    return Group(
        Text.assemble("\nSchedule written to ", (path, "bold"), ". To train with it:"),
        Padding(Text("\n".join(lines), style="cyan"), _INDENT),
    )


def one_line(schedule: Schedule, verification: Verification | None = None) -> str:
    """The plan in a line."""
    parts = [
        f"peak {format_bytes(schedule.peak_bytes)} of {format_bytes(schedule.baseline_peak_bytes)}",
        f"time +{format_percent(schedule.overhead)}",
        _proof(schedule),
    ]
    if verification is not None:
        met = "" if verification.within_budget else " (BUDGET EXCEEDED)"
        parts.append(f"measured {format_bytes(verification.measured_peak_bytes)}{met}")
        parts.append("bits identical" if verification.identical else "BITS DIFFER")
    return ", ".join(parts)


def _summary(schedule: Schedule, understood: str) -> RenderableType:
    table = _facts()
    origin = schedule.origin
    costs = {"": "", "measure": f"costs measured on {origin.device}"}.get(origin.costs, f"costs predicted, from {origin.costs}")
    table.add_row("Model", ", ".join(filter(None, (origin.model, f"{len(schedule.graph.ops):,} ops", costs))))
    reserving = ", on what the GPU's allocator reserves" if origin.budget_on == "reserved" else ""
    table.add_row("Budget", understood + reserving)
    saved = 1 - schedule.peak_bytes / schedule.baseline_peak_bytes if schedule.baseline_peak_bytes else 0.0
    unplanned = format_bytes(schedule.baseline_peak_bytes)
    table.add_row(
        "Peak", f"{format_bytes_both(schedule.peak_bytes)}, {format_percent(saved)} below the {unplanned} without recomputation"
    )
    table.add_row(
        "Time",
        f"+{format_percent(schedule.overhead)} a step: {format_seconds(schedule.seconds)} instead of "
        f"{format_seconds(schedule.baseline_seconds)}",
    )
    table.add_row("Proof", _proof(schedule))
    if (reserved := reserved_by(schedule)) is not None:
        table.add_row("Allocator", _allocator(reserved))
    pinned = sum(op.pinned is not None for op in schedule.graph.ops)
    if pinned:
        table.add_row("Pinned", f"ops that run exactly once whatever the budget: {pinned:,}; `plan show` lists them")
    return table


def _allocator(reserved: Reserved) -> str:
    """What the GPU's allocator makes of the plan, and the setting with which it reserves less."""
    taken = f"hands out {format_bytes(reserved.allocated_bytes)} and reserves {format_bytes(reserved.bytes)} at the most"
    line = f"{taken}, {format_percent(reserved.fragmentation)} of that for fragmentation"
    if reserved.setting is not None:
        line += f"; {format_bytes(reserved.expandable_bytes)} with {reserved.setting}"
    return line


def _proof(schedule: Schedule) -> str:
    within = f" ({schedule.assumption})" if schedule.assumption else ""
    if schedule.status == "optimal":
        return f"optimal{within}"
    gap = format_percent(schedule.overhead - schedule.bound_overhead)
    return f"within {gap} of a step of the best: none takes less than +{format_percent(schedule.bound_overhead)}{within}"


def _comparison(schedule: Schedule, rows: Sequence[Row]) -> RenderableType:
    table = plain_table()
    table.add_column("policy")
    table.add_column("peak", justify="right")
    table.add_column("extra time", justify="right")
    table.add_column("budget")
    for row in rows:
        table.add_row(
            row.solver, format_bytes(row.peak_bytes), f"+{format_percent(row.overhead)}", _verdict(row.fits, "met", "exceeded")
        )
    table.add_row(
        f"this plan ({schedule.solver})",
        format_bytes(schedule.peak_bytes),
        f"+{format_percent(schedule.overhead)}",
        _verdict(True, "met", ""),
        style="bold",
    )
    table.add_row("no plan can take less than", "", f"+{format_percent(schedule.bound_overhead)}", "", style="dim")
    return table


def _memory(schedule: Schedule) -> RenderableType:
    table = plain_table(header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    shares = memory_at_peak(schedule)
    small = {name for name, size in shares.items() if size < _LEAST_SHARE * schedule.peak_bytes}
    rows = {name: size for name, size in shares.items() if name not in small}
    if small:
        rows["other"] = sum(shares[name] for name in small)
    for name, size in rows.items():
        share = size / schedule.peak_bytes
        table.add_row(name, format_bytes(size), format_percent(share), Bar(share))
    return table


def _facts() -> Table:
    table = Table.grid(padding=(0, len(GAP), 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _section(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(f"\n{title}", style="bold"), Padding(body, _INDENT, expand=False))


def _verdict(good: bool, yes: str, no: str) -> Text:
    return Text(yes, style="green") if good else Text(no, style="red")
