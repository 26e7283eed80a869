"""What each idea of the chain solvers is worth: these tests fail when one stops paying."""

from __future__ import annotations

import numpy as np
import pytest

from remat_planner.solvers.chain.persistent_dp import table
from remat_planner.solvers.chain.stage_options import SHARES, in_slots, measure
from remat_planner.solvers.chain.stages import Forward, chains
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.solvers.helpers import instance
from tests.solvers.two_level.test_search import layers


def best_seconds(problem: Problem, shares: int, room: int) -> float:
    """Least seconds, over the views of a graph as a chain, of a persistent schedule in ``room`` bytes."""
    found = [np.inf]
    for chain in chains(Forward(problem)):
        stages = in_slots(measure(chain, shares).stages, unit=1)
        found.append(float(table(stages, room)[0, len(stages.inputs) - 1, room]))
    return min(found)


@pytest.mark.parametrize("share", [0.5, 0.6])
def test_options_per_stage_find_cheaper_schedules(share: float) -> None:
    problem = Problem.of(layers(6))
    room = int(share * (problem.simulate(range(problem.n)).peak_bytes - problem.constant_bytes))
    assert best_seconds(problem, SHARES, room) < best_seconds(problem, 0, room)


def test_sharing_items_that_cross_many_cuts_gives_longer_chains() -> None:
    graph, _ = instance("checkmate_unet")
    forward = Forward(Problem.of(graph))
    longest, without = (max((len(view.stages) for view in chains(forward, share=share)), default=1) for share in (True, False))
    assert longest > without
