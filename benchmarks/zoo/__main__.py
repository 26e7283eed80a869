"""``python -m benchmarks.zoo --library transformers``: plans every architecture of a library at tiny size, and verifies it.

Each architecture is built from its own configuration, shrunk by rule, trained in eager, planned at 70 % of its peak, by
regions where the whole is refused, and verified, in a process of its own. Exits with 1 where a plan is wrong, a peak is over
its budget, or an error is not the project's own.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import random
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.sweep.workers import run_each
from benchmarks.zoo.architectures import LIBRARIES, Architecture, LibraryMissingError, architectures
from benchmarks.zoo.attempt import FAULTS, Row, attempt
from benchmarks.zoo.limits import limits_section
from benchmarks.zoo.table import append_row, markdown, read_rows, summary


def tried(library: str, chosen: Sequence[Architecture], *, seconds: float, jobs: int = 1, fresh: bool = True) -> Iterator[Row]:
    """The row of each architecture, as they come; without ``fresh`` they share a process, which takes half the time."""
    for index, result in run_each(partial(attempt, library), chosen, limit=seconds, processes=jobs, fresh=fresh):
        if isinstance(result, Row):
            yield result
        else:
            verdict = "too slow" if "took" in result else "crashed"
            yield Row(library, chosen[index].name, verdict=verdict, detail=result)


def chosen(library: str, pattern: str, sample: int | None, seed: int) -> list[Architecture]:
    """The architectures whose names match ``pattern``; at most ``sample``, drawn by ``seed``.

    Raises:
        LibraryMissingError: the library is not installed.
    """
    found = [one for one in architectures(library) if fnmatch.fnmatchcase(one.name, pattern)]
    return found if sample is None or sample >= len(found) else random.Random(seed).sample(found, sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--library", choices=LIBRARIES, default="transformers")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="only architectures of these names (qwen*)")
    parser.add_argument("--jobs", type=int, default=1, help="how many are tried at once")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="LIMIT", help="for one architecture, by the clock")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument(
        "--output",
        type=Path,
        help="a Markdown file; the rows are kept beside it, in .jsonl, and not tried again unless they were too slow",
    )
    parser.add_argument("--limits", action="store_true", help="print the section of docs/limits.md from the rows of --output")
    asked = parser.parse_args()
    rows = read_rows(asked.output) if asked.output else []
    if asked.limits:
        if not rows:
            sys.exit("--limits needs the rows of an earlier run: give its --output")
        print(limits_section(rows))
        return
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is built from what a hub has
    try:
        to_try = chosen(asked.library, asked.only, asked.sample, asked.seed)
    except LibraryMissingError as error:
        sys.exit(str(error))
    known = {(row.library, row.name) for row in rows if row.verdict != "too slow"}
    to_try = [one for one in to_try if (asked.library, one.name) not in known]
    rows = [row for row in rows if (row.library, row.name) in known]
    try:
        for row in tried(asked.library, to_try, seconds=asked.seconds, jobs=asked.jobs):
            rows.append(row)
            print(f"{row.name}: {row.verdict} {row.detail or row.refusal}"[:240], file=sys.stderr, flush=True)
            if asked.output:
                append_row(asked.output, row)
    except KeyboardInterrupt:
        print(f"interrupted after {len(rows):,} architectures", file=sys.stderr)
    if asked.output:
        asked.output.write_text(markdown(rows), encoding="utf-8")
    print(summary(rows))
    sys.exit(1 if any(row.verdict in FAULTS for row in rows) else 0)


if __name__ == "__main__":
    main()
