"""The program with copies: a bound for schedules that copy, and a hint what to keep, recompute and copy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.lazy_moments.links import Links
from remat_planner.solvers.lazy_moments.master_program import MasterProgram
from remat_planner.solvers.milp import TOLERANCE
from remat_planner.solvers.problem import Problem


@dataclass(frozen=True)
class CopyShares:
    """What a solution of the program, or of its relaxation, says.

    Attributes:
        bound: seconds; no schedule of the graph in the given order within the budget takes less, with or without copies. Of the
            relaxation by exact arithmetic on its duals, of the program by branch and bound at HiGHS's tolerances; inf where it
            is infeasible.
        moments: nodes, ascending.
        held: for each moment the share of each item that is in memory; empty where there is no solution.
        loaded: for each moment the share of each item that is away then, and is loaded before the next moment.
    """

    bound: float
    moments: tuple[int, ...]
    held: tuple[Mapping[int, float], ...]
    loaded: tuple[Mapping[int, float], ...]


class CopyProgram:
    """The program that watches memory at some moments, and what the links carry up to each and from each on.

    Args:
        problem: the reduced graph, which may have pools.
        budget: bytes, constants included.
        moments: nodes, ascending and not auxiliary.
        copies: whether schedules may copy; without, bounds cover only those that do not.
        margin: bytes to leave free at each moment. Then bounds are those of a lower budget.
    """

    def __init__(
        self, problem: Problem, budget: float, moments: Sequence[int], *, copies: bool = True, margin: int = 0
    ) -> None:
        self._problem = problem
        self._links = Links.of(problem) if copies else None
        margins = dict.fromkeys(moments, margin)
        self._master = MasterProgram(problem, budget, moments, margins=margins, links=self._links)

    def relax(self, *, seconds: float) -> CopyShares:
        """Solve the relaxation. Without a solution in time the bound is the time without recomputation."""
        outcome = self._master.solve(seconds=seconds, gap=0.0, relax=True)
        return self._shares(self._master.certified(outcome), outcome.values)

    def solve(self, *, seconds: float, gap: float) -> CopyShares:
        """Solve the program, to within ``gap`` seconds of the step."""
        outcome = self._master.solve(seconds=seconds, gap=gap)
        safe = outcome.bound * (1 - TOLERANCE) if 0 < outcome.bound < math.inf else max(0.0, outcome.bound)
        return self._shares(safe, outcome.values)

    def _shares(self, extra: float, values: NDArray[np.float64] | None) -> CopyShares:
        if self._links is not None and extra < math.inf:
            extra = min(extra, self._links.longest)  # the rows say nothing about slower schedules
        return CopyShares(
            bound=self._problem.seconds + extra,
            moments=self._master.moments,
            held=_shares_of(self._master.held, values),
            loaded=_shares_of(self._master.loaded, values),
        )


def _shares_of(columns: Sequence[Mapping[int, int]], values: NDArray[np.float64] | None) -> tuple[Mapping[int, float], ...]:
    if values is None:
        return ()
    return tuple({item: float(values[column]) for item, column in of.items()} for of in columns)
