"""What each idea of the two-level search is worth: these tests fail when one stops paying."""

from __future__ import annotations

from dataclasses import replace

import pytest

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem.reduced_graph import Problem
from remat_planner.solvers.two_level.options import TwoLevelOptions
from remat_planner.solvers.two_level.search import TwoLevels
from tests.solvers.two_level.test_search import layers

ALL = TwoLevelOptions(most_options=6)


def costs(levels: TwoLevels) -> list[float]:
    """Seconds at four budgets, all of which can be met."""
    problem = levels.problem
    peak = problem.simulate(range(problem.n)).peak_bytes
    answers = [problem.simulate(levels.best(int(share * peak))) for share in (0.5, 0.6, 0.7, 0.8)]
    assert all(answer.peak_bytes <= share * peak for answer, share in zip(answers, (0.5, 0.6, 0.7, 0.8), strict=True))
    return [answer.seconds for answer in answers]


def made(options: TwoLevelOptions) -> TwoLevels:
    return TwoLevels(Problem.of(layers(8)), Deadline(60.0), options)


@pytest.mark.slow
def test_equal_blocks_share_their_options() -> None:
    shared, apart = (made(replace(ALL, share_blocks=share)) for share in (True, False))
    assert shared.fronts <= 0.6 * apart.fronts
    assert costs(shared) == costs(apart)


@pytest.mark.slow
def test_blocks_of_whole_layers_are_equal_more_often() -> None:
    aligned, not_aligned = (made(replace(ALL, align_layers=align)) for align in (True, False))
    assert aligned.fronts < not_aligned.fronts


@pytest.mark.slow
def test_dominated_prefixes_are_dropped_without_loss() -> None:
    few, many = (made(replace(ALL, prune_prefixes=prune)) for prune in (True, False))
    assert costs(few) == costs(many)
    assert sum(chain.prefixes for chain in few.chains) < 0.75 * sum(chain.prefixes for chain in many.chains)


@pytest.mark.slow
def test_coarser_partitions_find_cheaper_schedules() -> None:
    several, finest = (made(replace(ALL, levels=levels)) for levels in (4, 1))
    assert all(cost <= other for cost, other in zip(costs(several), costs(finest), strict=True))
    assert sum(costs(several)) < sum(costs(finest))
