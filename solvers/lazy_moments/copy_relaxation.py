"""The linear relaxation of the program with copies: a bound for schedules that copy, and a hint what to copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.lazy_moments.links import Links
from remat_planner.solvers.lazy_moments.master_program import MasterProgram
from remat_planner.solvers.problem import Problem


@dataclass(frozen=True)
class CopyRelaxation:
    """What the relaxation says.

    Attributes:
        bound: seconds; no schedule of the graph in the given order within the budget takes less, with or without copies. By
            exact arithmetic on the duals; inf where HiGHS finds the relaxation infeasible.
        moments: nodes, ascending.
        held: for each moment the share of each item that is in memory; empty where there is no solution.
        loaded: for each moment the share of each item that is away then, and is loaded before the next moment.
    """

    bound: float
    moments: tuple[int, ...]
    held: tuple[Mapping[int, float], ...]
    loaded: tuple[Mapping[int, float], ...]


def relax_copies(
    problem: Problem, budget: float, moments: Sequence[int], *, copies: bool = True, margin: int = 0, seconds: float
) -> CopyRelaxation:
    """Solve the relaxation that watches memory at ``moments``.

    Args:
        problem: the reduced graph, which may have pools.
        budget: bytes, constants included.
        moments: nodes, ascending and not auxiliary.
        copies: whether schedules may copy; without, the bound covers only those that do not.
        margin: bytes to leave free at each moment. Then the bound is that of a lower budget.
        seconds: time limit; without a solution in time the bound is the time without recomputation.
    """
    links = Links.of(problem) if copies else None
    master = MasterProgram(problem, budget, moments, margins=dict.fromkeys(moments, margin), links=links)
    outcome = master.solve(seconds=seconds, gap=0.0, relax=True)
    extra = master.certified(outcome)
    if links is not None and outcome.status != "infeasible":
        extra = min(extra, links.longest)  # the rows say nothing about slower schedules
    values = outcome.values
    return CopyRelaxation(
        bound=problem.seconds + extra,
        moments=master.moments,
        held=() if values is None else tuple(_shares(columns, values) for columns in master.held),
        loaded=() if values is None else tuple(_shares(columns, values) for columns in master.loaded),
    )


def _shares(columns: Mapping[int, int], values: NDArray[np.float64]) -> dict[int, float]:
    return {item: float(values[column]) for item, column in columns.items()}
