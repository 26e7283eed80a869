"""The section of ``docs/limits.md``: what is refused, why, and what to do instead, produced from the rows of a run."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.zoo.attempt import Row
from benchmarks.zoo.reasons import Reason, reason_of

_MOST_EXAMPLES = 6


def limits_section(rows: Sequence[Row]) -> str:
    """Markdown: one line for each class of refusals, the most frequent first, and then each refused architecture."""
    refused: dict[str, list[Row]] = {}
    reasons: dict[str, Reason] = {}
    for row in rows:
        if row.verdict == "refused" or row.refusal:
            reason = reason_of(row.refusal or row.detail)
            reasons[reason.title] = reason
            refused.setdefault(reason.title, []).append(row)
    lines = ["| what is not planned whole | architectures | saved memory by regions | for example | what to do |"]
    lines.append("|---|---:|---:|---|---|")
    for title in sorted(refused, key=lambda title: (-len(refused[title]), title)):
        found = refused[title]
        by_regions = sum(row.verdict != "refused" and (row.least is None or row.least < 1) for row in found)
        names = ", ".join(sorted(row.name for row in found)[:_MOST_EXAMPLES])
        lines.append(f"| {title} | {len(found)} | {by_regions} | {names} | {reasons[title].instead} |")
    if neither := [row for row in rows if row.verdict == "refused"]:
        lines += ["", "Planned neither whole nor by regions:", ""]
        lines += ["| library | architecture | whole: because of | by regions: because of |", "|---|---|---|---|"]
        for row in sorted(neither, key=lambda row: (row.library, row.name)):
            whole, regions = (reason_of(text).title if text else "" for text in (row.refusal, row.detail))
            lines.append(f"| {row.library} | {row.name} | {whole} | {regions} |")
    return "\n".join(lines)
