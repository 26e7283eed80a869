"""``python -m benchmarks.sweep``: plans PyTorch's operators and modules and random programs, and trains them beside eager.

Exits with 1 where a result is wrong, a peak is over its budget, or an error is not the project's own.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import random
import sys
import time
import warnings
from collections import Counter

import torch

from benchmarks.sweep.beside_eager import Outcome, check
from benchmarks.sweep.cases import Case
from benchmarks.sweep.workers import run_each

PARTS = {"op_db": "operators", "module_db": "modules", "programs": "programs"}
FAULTS = ("wrong", "over budget", "foreign error", "crashed", "too slow")


def collected(parts: list[str], samples: int, words: str, sample: int | None, seed: int) -> list[Case]:
    """The cases of ``parts`` whose names contain ``words``; at most ``sample``, drawn by ``seed``."""
    cases = [case for part in parts for case in importlib.import_module(f"benchmarks.sweep.{PARTS[part]}").cases(samples)]
    cases = [case for case in cases if words in case.name]
    return cases if sample is None or sample >= len(cases) else random.Random(seed).sample(cases, sample)


def sweep(cases: list[Case], *, limit: float, processes: int = 1, show: bool = False) -> list[tuple[Case, Outcome]]:
    """Check each case; ``show`` prints the offenders as they are found. Ctrl-C ends it with what there is."""
    found: list[tuple[Case, Outcome]] = []
    try:
        for index, result in run_each(check, cases, limit=limit, processes=processes):
            outcome = result if isinstance(result, Outcome) else Outcome("too slow" if "took" in result else "crashed", result)
            found.append((cases[index], outcome))
            if show and outcome.verdict in FAULTS:
                print(f"{outcome.verdict}: {cases[index].part} {cases[index].name}: {outcome.detail}", flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {len(found):,} of {len(cases):,} cases", file=sys.stderr)
    return found


def table(found: list[tuple[Case, Outcome]]) -> str:
    """The counts by part and verdict, and what was refused by which words."""
    verdicts = ("right", "refused", *FAULTS)
    counts = Counter((case.part, outcome.verdict) for case, outcome in found)
    lines = [f"{'':12} {'tried':>8} " + " ".join(f"{verdict:>13}" for verdict in verdicts)]
    for part in PARTS:
        row = [counts[part, verdict] for verdict in verdicts]
        if sum(row):
            lines.append(f"{part:12} {sum(row):8,} " + " ".join(f"{number:13,}" for number in row))
    skipped = sum(outcome.verdict == "not trained by eager" for _, outcome in found)
    lines.append(f"left out: {skipped:,} that eager itself cannot build, train or repeat")
    causes = Counter(outcome.cause for _, outcome in found if outcome.verdict == "refused")
    lines += ["refused:", *(f"{number:6,}  {cause}" for cause, number in causes.most_common())] if causes else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given several times")
    parser.add_argument("--names", default="", help="only cases whose names contain this")
    parser.add_argument("--samples", type=int, default=4, help="samples of each operator, dtype, variant, module and mode")
    parser.add_argument("--sample", type=int, help="so many cases, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one case")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    quiet()
    started = time.perf_counter()
    cases = collected(asked.only or list(PARTS), asked.samples, asked.names, asked.sample, asked.seed)
    found = sweep(cases, limit=asked.limit, processes=asked.processes, show=True)
    print(table(found))
    print(f"{time.perf_counter() - started:,.0f} s")
    sys.exit(1 if any(outcome.verdict in FAULTS for _, outcome in found) else 0)


def quiet() -> None:
    """One thread, no warnings, no log of the planner."""
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    warnings.simplefilter("ignore")
    logging.getLogger("remat_planner").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
