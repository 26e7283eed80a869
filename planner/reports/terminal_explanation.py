"""The answer of ``plan explain`` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_percent, format_seconds
from remat_planner.planner.reports.copies import Copy
from remat_planner.planner.reports.explanation import Explanation, ModuleExplanation
from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.planner.reports.terminal_widgets import fact_table, plain_table, section
from remat_planner.schedules import Schedule

_MOST_EXPLANATIONS = 5
_MOST_READERS = 3
_MOST_OPERATORS = 12


def explanation_report(
    schedule: Schedule, together: ModuleExplanation | None, explanations: Sequence[Explanation]
) -> RenderableType:
    """What the ops take ``together``, and then each of ``explanations`` with its readers, its time and its place in memory."""
    sections: list[RenderableType] = [] if together is None else [_together(schedule, together)]
    for explanation in explanations[:_MOST_EXPLANATIONS]:
        details = ", ".join(filter(None, (short_operator(explanation.kind), explanation.source)))
        sections.append(section(f"{explanation.op} ({details})", fact_table(_facts(schedule, explanation))))
    if (more := len(explanations) - _MOST_EXPLANATIONS) > 0:
        sections.append(Text(f"\nand {more:,} smaller ones; name more of the op", style="dim"))
    return Group(*sections)


def _together(schedule: Schedule, explanation: ModuleExplanation) -> RenderableType:
    row, step = explanation.together, schedule.baseline_seconds
    share = f" ({format_percent(row.seconds / step)} of a step)" if step else ""
    recomputation = f"{row.recomputations:,} executions, {format_seconds(row.seconds)}{share}" if row.recomputations else "none"
    facts: dict[str, str | Text] = {
        "at the peak": f"{format_bytes(row.peak_bytes)} of {format_bytes(schedule.peak_bytes)}; without recomputation "
        f"{format_bytes(row.baseline_peak_bytes)} of {format_bytes(schedule.baseline_peak_bytes)}",
        "recomputation": recomputation,
    }
    if row.recomputations:
        facts["saves"] = (
            "not known: the transfers of this schedule rely on it"
            if row.saved_bytes is None
            else f"without it, and all else as it is, the peak would be {format_bytes(row.saved_bytes)} higher"
        )
    parts: list[RenderableType] = [section(f"{row.name}: {explanation.ops:,} ops together", fact_table(facts))]
    if len(explanation.operators) > 1:
        table = plain_table()
        for title in ("operator", "at the peak", "without plan", "recomputed", "time", "saves"):
            table.add_column(title, justify="left" if title == "operator" else "right")
        for part in explanation.operators[:_MOST_OPERATORS]:
            sizes = (format_bytes(part.peak_bytes), format_bytes(part.baseline_peak_bytes))
            cost = (f"{part.recomputations:,}", format_seconds(part.seconds))
            saved = "?" if part.saved_bytes is None else format_bytes(part.saved_bytes)
            table.add_row(Text(part.name), *sizes, *cost, saved)
        parts.append(Padding(table, (1, 0, 0, 2), expand=False))
    return Group(*parts)


def _facts(schedule: Schedule, explanation: Explanation) -> dict[str, str | Text]:
    step = schedule.baseline_seconds
    share = f" ({format_percent(explanation.seconds / step)} of a step)" if step else ""
    times = f", {explanation.runs} times a step" if explanation.runs > 1 else ""
    spans = ", ".join(f"{first:,}-{last:,}" for first, last in explanation.alive)
    at_peak = "in memory at the peak" if explanation.alive_at_peak else "not in memory at the peak"
    facts: dict[str, str | Text] = {
        "decision": explanation.decision + (f"; must run once: {explanation.pinned}" if explanation.pinned else ""),
        "makes": f"{', '.join(explanation.makes)}: {format_bytes(explanation.bytes)}",
        "takes": f"{format_seconds(explanation.seconds)}{share}{times}",
        "read by": _readers("forward", explanation.forward_readers),
        "": _readers("backward", explanation.backward_readers),
        "in memory": f"steps {spans} of {len(schedule.steps):,}; {at_peak}",
    }
    for number, copy in enumerate(explanation.copies):
        facts["copied" if not number else " " * number] = _copy(copy)
    return facts


def _copy(copy: Copy) -> str:
    returns = ", ".join(f"returns from step {load:,}, read first in step {reader:,}" for load, reader in copy.returns)
    stalls = f"stalls the device for {format_seconds(copy.stalled_seconds)}" if copy.stalled_seconds else "without a stall"
    leaves = f"leaves for the {copy.pool} from step {copy.leaves:,}, released in step {copy.released:,}"
    return f"{leaves}; {returns or 'never returns'}; {stalls}"


def _readers(phase: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_READERS} more" if len(names) > _MOST_READERS else ""
    return f"{phase}: {', '.join(names[:_MOST_READERS]) or 'nothing'}{more}"
