"""Checkpoint segments of n blocks, or of n ops if the graph names no blocks."""

from __future__ import annotations

import math

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import Forward, just_in_time, kept_by_segments, module_segments
from remat_planner.solvers.interface import Answer, Solver, Task

# Values of n tried per nesting depth; if there are more blocks, they are spread evenly on a logarithmic scale.
_MOST_SETTINGS = 32


class EveryN(Solver):
    """Segments of n blocks, with and without checkpointing the last; the cheapest n that fits."""

    name = "every-n"
    description = "checkpoint every n blocks (numbered modules; ops where there are none), the n that fits at the least cost"
    source = "the usual setting by hand"
    quick = True

    def solve(self, task: Task) -> Answer:
        """The cheapest setting that fits."""
        candidates = Candidates(task)
        if candidates.fits(range(task.problem.n), "keeps everything"):
            return candidates.answer()
        forward = Forward(task.problem)
        blocks = [(begins, "blocks") for begins, _ in module_segments(forward)]
        for begins, unit in blocks or [(list(range(len(forward.main))), "ops")]:
            for n in _settings(len(begins)):
                segments = begins[::n]
                for last in (len(segments) - 1, None):
                    kept = kept_by_segments(forward, segments, () if last is None else (last,))
                    but = "" if last is None else ", the last segment not"
                    candidates.offer(just_in_time(forward, kept), f"checkpoints every {n} {unit} of {len(begins)}{but}")
                    if candidates.out_of_time:
                        return candidates.answer()
        return candidates.answer()


def _settings(units: int) -> list[int]:
    if units <= _MOST_SETTINGS:
        return list(range(1, units + 1))
    return sorted({round(math.exp(math.log(units) * i / (_MOST_SETTINGS - 1))) for i in range(_MOST_SETTINGS)})
