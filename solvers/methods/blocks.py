"""Checkpoint the first q blocks of the model at module boundaries, with the least q that fits."""

from __future__ import annotations

import math

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.chain import Chain, Forward, chains, just_in_time, kept_by_segments, module_segments
from remat_planner.solvers.interface import Answer, Solver, Task


class Blocks(Solver):
    """The first q blocks are checkpointed, each on its own; the others keep their activations."""

    name = "blocks"
    description = "checkpoint the first q blocks at module boundaries, the least q that fits"
    source = "a setting common in practice"
    quick = True

    def solve(self, task: Task) -> Answer:
        """Bisect for q at every nesting depth of the modules."""
        candidates = Candidates(task)
        if candidates.fits(range(task.problem.n), "keeps everything"):
            return candidates.answer()
        forward = Forward(task.problem)
        unit = "blocks"
        divisions = module_segments(forward)
        if not divisions:
            # A graph that was not traced from a model names no modules; cut points serve as boundaries instead.
            unit = "segments between cut points (the graph names no modules)"
            divisions = [(begins := _sqrt_segments(chain), [True] * len(begins)) for chain in chains(forward)]
        for begins, is_block in divisions:
            blocks = [i for i, block in enumerate(is_block) if block]
            few, many = 1, len(blocks)
            while few <= many:
                q = (few + many) // 2
                whole = set(range(len(begins))) - set(blocks[:q])
                note = f"checkpoints the first {q} of {len(blocks)} {unit}"
                if candidates.fits(just_in_time(forward, kept_by_segments(forward, begins, whole)), note):
                    many = q - 1
                else:
                    few = q + 1
                if candidates.out_of_time:
                    return candidates.answer()
        return candidates.answer()


def _sqrt_segments(chain: Chain) -> list[int]:
    """The forward positions at which about sqrt(n) segments of equally many stages begin."""
    position = {node: p for p, node in enumerate(chain.forward.main)}
    return [position[stage.nodes[0]] for stage in chain.stages[:: max(1, math.isqrt(len(chain.stages)))]]
