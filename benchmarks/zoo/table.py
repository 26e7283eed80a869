"""The rows of a run: kept in a file as they come, counted, and written as a Markdown table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from benchmarks.zoo.attempt import Row, Verdict
from benchmarks.zoo.reasons import reason_of

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_UNTRAINED: tuple[Verdict, ...] = ("not trained by eager", "not trainable", "too slow")


def read_rows(output: Path) -> list[Row]:
    """The rows that an earlier run left beside ``output``."""
    file = output.with_suffix(".jsonl")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return list({(row.library, row.name): row for row in rows}.values())  # the last one of each


def append_row(output: Path, row: Row) -> None:
    """Keep one row, so that a run that is stopped can go on."""
    with output.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def markdown(rows: Iterable[Row]) -> str:
    """Counts by library, refusals by reason, and a table of all architectures."""
    rows = sorted(rows, key=lambda row: (row.library, row.name))
    lines = [*_counted(rows), "", *_refused(rows), ""]
    lines += ["| library | architecture | model | verdict | least | why | seconds |", "|---|---|---|---|---:|---|---:|"]
    lines += [_line(row) for row in rows]
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """The counts alone, as Markdown."""
    return "\n".join([*_counted(rows), "", *_refused(rows)])


def _counted(rows: Sequence[Row]) -> list[str]:
    """One line a library; shares are of those that eager trains within the time limit, and count plans at the least budget."""
    shown = [verdict for verdict in VERDICTS if any(row.verdict == verdict for row in rows)]
    lines = [f"| library | {' | '.join(shown)} | whole, at 70 % or the least budget | whole or by regions |"]
    lines.append(f"|---|{'---:|' * (len(shown) + 2)}")
    for library in sorted({row.library for row in rows}):
        of_library = [row for row in rows if row.library == library]
        counts = Counter(row.verdict for row in of_library)
        trained = len(of_library) - sum(counts[verdict] for verdict in _UNTRAINED)
        right = [row for row in of_library if row.verdict in ("whole", "regions", "infeasible")]
        whole = sum(not row.by_regions for row in right)
        shares = (f"{n} of {trained} ({n / max(1, trained):.0%})" for n in (whole, len(right)))
        lines.append(f"| {library} | {' | '.join(str(counts[verdict]) for verdict in shown)} | {' | '.join(shares)} |")
    return lines


def _refused(rows: Sequence[Row]) -> list[str]:
    """Refusals of the whole, by reason: how many are refused by regions too, and how many regions planned."""
    counts: Counter[tuple[str, bool]] = Counter()
    for row in rows:
        if row.verdict == "refused" or row.refusal:
            counts[reason_of(row.refusal or row.detail).title, row.verdict == "refused"] += 1
    if not counts:
        return []
    titles = sorted({title for title, _ in counts}, key=lambda title: -counts[title, True] - counts[title, False])
    lines = ["| refused whole because | refused by regions too | planned by regions |", "|---|---:|---:|"]
    return lines + [f"| {title} | {counts[title, True]} | {counts[title, False]} |" for title in titles]


def _line(row: Row) -> str:
    least = f"{row.least:.0%}" if row.least is not None else ""
    verdict = f"{row.verdict}, by regions" if row.by_regions and row.verdict != "regions" else row.verdict
    why = (row.detail or row.refusal).replace("|", "/")[:200]
    return f"| {row.library} | {row.name} | {row.model} | {verdict} | {least} | {why} | {row.seconds:.0f} |"
