"""A bound on every schedule, whatever the order of its first executions.

The program of lazy moments with one moment, relaxed to what every order has in common. When a node runs first, the nodes whose
results lead to it have run, and those that its results lead to have not: what the latter read of the former is held then, or
computed again later. All other nodes may run on either side. They count as free, their results as no memory that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.lazy_moments.master_program import MasterProgram
from remat_planner.solvers.lazy_moments.options import ProgramOptions
from remat_planner.solvers.problem import Problem

# Nodes that are looked at: those where a run without recomputation takes most.
_MOMENTS = 8
# Fused nodes are recomputed together, and here one of them may run first after the moment.
_OPTIONS = ProgramOptions(fuse_nodes=False)


def any_order_bound(problem: Problem, budget: int, deadline: Deadline) -> float:
    """Seconds that no schedule within ``budget`` bytes beats; inf where none exists."""
    bound = problem.seconds
    for node in _moments(problem):
        if deadline.expired or bound == np.inf:
            break
        relaxed, moment = around(problem, node)
        program = MasterProgram(relaxed, budget, [moment], options=_OPTIONS)
        outcome = program.solve(seconds=deadline.remaining, gap=0.0, relax=True)
        bound = max(bound, problem.seconds + program.certified(outcome))
    return bound


def around(problem: Problem, node: int) -> tuple[Problem, int]:
    """``problem`` with what need not come after the first run of ``node`` before it, and free if it may; and the node there."""
    before = _reached(problem, node, lambda v: (int(problem.producer[item]) for item in problem.reads[v]))
    after = _reached(problem, node, lambda v: (reader for item in problem.writes[v] for reader in problem.readers[item]))
    free = ~(before | after)
    free[node] = False
    first = np.flatnonzero(before | free).tolist()
    relaxed = replace(
        problem,
        cost=np.where(free, 0.0, problem.cost),
        replay=np.where(free, 0, problem.replay),
        pinned=problem.pinned & ~free,
        auxiliary=np.zeros(problem.n, dtype=np.bool_),
        lasting=problem.lasting & ~free[problem.producer],
    )
    return relaxed.reordered([*first, node, *np.flatnonzero(after).tolist()]), len(first)


def _moments(problem: Problem) -> list[int]:
    """Nodes where a run without recomputation takes most memory, the highest first, and not all in one place."""
    live = problem.simulate(range(problem.n)).bytes if problem.n else np.empty(0, dtype=np.int64)
    distance = problem.n // (4 * _MOMENTS)
    chosen: list[int] = []
    for node in np.argsort(-live, kind="stable").tolist():
        if len(chosen) == _MOMENTS:
            break
        if all(abs(node - other) > distance for other in chosen):
            chosen.append(node)
    return chosen


def _reached(problem: Problem, start: int, following: Callable[[int], Iterable[int]]) -> np.ndarray:
    """bool[n]: the nodes to which ``following`` leads from ``start``, one after the other."""
    found = np.zeros(problem.n, dtype=np.bool_)
    waiting = [start]
    while waiting:
        for node in following(waiting.pop()):
            if not found[node]:
                found[node] = True
                waiting.append(node)
    return found
