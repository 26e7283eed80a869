"""The answer of ``plan explain`` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from remat_planner.planner.formatting import format_bytes, format_percent, format_seconds
from remat_planner.planner.reports.explanation import Explanation
from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.planner.reports.terminal_widgets import fact_table, section
from remat_planner.schedules import Schedule

_MOST_EXPLANATIONS = 5
_MOST_READERS = 3


def explanation_report(schedule: Schedule, explanations: Sequence[Explanation]) -> RenderableType:
    """The ops of ``explanations``, each with its readers, its time and its place in memory."""
    sections: list[RenderableType] = []
    for explanation in explanations[:_MOST_EXPLANATIONS]:
        details = ", ".join(filter(None, (short_operator(explanation.kind), explanation.source)))
        sections.append(section(f"{explanation.op} ({details})", fact_table(_facts(schedule, explanation))))
    if (more := len(explanations) - _MOST_EXPLANATIONS) > 0:
        sections.append(Text(f"\nand {more:,} smaller ones; name more of the op", style="dim"))
    return Group(*sections)


def _facts(schedule: Schedule, explanation: Explanation) -> dict[str, str | Text]:
    step = schedule.baseline_seconds
    share = f" ({format_percent(explanation.seconds / step)} of a step)" if step else ""
    times = f", {explanation.runs} times a step" if explanation.runs > 1 else ""
    spans = ", ".join(f"{first:,}-{last:,}" for first, last in explanation.alive)
    at_peak = "in memory at the peak" if explanation.alive_at_peak else "not in memory at the peak"
    return {
        "decision": explanation.decision + (f"; must run once: {explanation.pinned}" if explanation.pinned else ""),
        "makes": f"{', '.join(explanation.makes)}: {format_bytes(explanation.bytes)}",
        "takes": f"{format_seconds(explanation.seconds)}{share}{times}",
        "read by": _readers("forward", explanation.forward_readers),
        "": _readers("backward", explanation.backward_readers),
        "in memory": f"steps {spans} of {len(schedule.steps):,}; {at_peak}",
    }


def _readers(phase: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_READERS} more" if len(names) > _MOST_READERS else ""
    return f"{phase}: {', '.join(names[:_MOST_READERS]) or 'nothing'}{more}"
