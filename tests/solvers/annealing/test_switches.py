"""What each idea of the annealing is worth, in moves until a known cost is reached: these tests fail when one stops paying.

Shifts, swaps and warm streams have no test here: on the published graphs no number of moves shows that they pay.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from remat_planner.solvers.annealing import kernel, search
from remat_planner.solvers.annealing.search import AnnealingOptions, anneal
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.solvers.helpers import instance

OFTEN = AnnealingOptions(moves_per_look=1000)
SEEDS = range(4)


class NoClock(Deadline):
    """A time limit that plans moves and never passes."""

    def __init__(self, seconds: float) -> None:
        super().__init__(math.inf)
        self.seconds = seconds

    @property
    def elapsed(self) -> float:
        return 0.0

    @property
    def remaining(self) -> float:
        return self.seconds

    @property
    def expired(self) -> bool:
        return False


def moves_to(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    share: float,
    overhead: float,
    options: AnnealingOptions,
) -> int:
    """Moves, over some seeds, until a schedule takes ``overhead`` percent more than the step without recomputation.

    At most 640,000 for each seed.
    """
    graph, peak = instance(name)
    problem, target = Problem.of(graph), graph.seconds * (1 + overhead / 100)
    moves = 0
    real = kernel.anneal

    def counted(wiring: kernel.Wiring, state: kernel.SequenceState, mix: kernel.MoveMix, count: int, *rest: float) -> int:
        nonlocal moves
        moves += count
        return real(wiring, state, mix, count, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "anneal", counted)
        patch.setattr(search, "Deadline", NoClock)
        for seed in SEEDS:
            anneal(problem, math.floor(share * peak), NoClock(1.6), target=target, seed=seed, options=options)
    return moves


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share", "overhead", "without", "saved"),
    [
        ("checkmate_unet", 0.5, 6.9668, {"removals": 0.0}, 0.4),
        ("rlg2_n250", 0.8, 4.6, {"at_peaks": 0.0}, 0.5),
        ("rlg2_n250", 0.8, 4.6, {"alone": 1.0, "whole": 0.0}, 0.5),
    ],
    ids=["removals", "insertions at peaks", "chains of insertions"],
)
def test_a_kind_of_move_pays(
    monkeypatch: pytest.MonkeyPatch, name: str, share: float, overhead: float, without: dict[str, float], saved: float
) -> None:
    everything = moves_to(monkeypatch, name, share, overhead, OFTEN)
    less = moves_to(monkeypatch, name, share, overhead, replace(OFTEN, moves=kernel.DEFAULT_MIX._replace(**without)))
    assert everything < (1 - saved) * less
