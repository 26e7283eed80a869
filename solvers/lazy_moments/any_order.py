"""A bound on every schedule, whatever the order of its first executions.

The program of lazy moments with one moment, relaxed to what every order has in common. When a node runs first, the nodes whose
results lead to it have run, and those that its results lead to have not: what the latter read of the former is held then, or
computed again later. All other nodes may run on either side. They count as free, their results as no memory that is needed.
"""

from __future__ import annotations

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
        program = MasterProgram(around(problem, node), budget, [_place(problem, node)], options=_OPTIONS)
        outcome = program.solve(seconds=deadline.remaining, gap=0.0, relax=True)
        bound = max(bound, problem.seconds + program.certified(outcome))
    return bound


def around(problem: Problem, node: int) -> Problem:
    """``problem`` with what need not come after the first run of ``node`` before it, and free if it may come after."""
    before, after = _before(problem, node), _after(problem, node)
    free = ~(before | after)
    free[node] = False
    order = [*np.flatnonzero(before | free).tolist(), node, *np.flatnonzero(after).tolist()]
    place = np.empty(problem.n, dtype=np.int64)
    place[order] = np.arange(problem.n)
    reads = [problem.reads[i] for i in order]
    writes = [problem.writes[i] for i in order]
    return replace(
        problem,
        ops=problem.ops[order],
        cost=np.where(free, 0.0, problem.cost)[order],
        workspace=problem.workspace[order],
        replay=np.where(free, 0, problem.replay)[order],
        pinned=(problem.pinned & ~free)[order],
        outside=problem.outside[order],
        forward=problem.forward[order],
        auxiliary=np.zeros(problem.n, dtype=np.bool_),
        in_turn=problem.in_turn[order],
        producer=place[problem.producer],
        lasting=problem.lasting & ~free[problem.producer],
        read_ptr=_pointer(reads),
        read_items=_flat(reads),
        write_ptr=_pointer(writes),
        write_items=_flat(writes),
    )


def _place(problem: Problem, node: int) -> int:
    """Where ``around`` puts ``node``."""
    return problem.n - 1 - int(_after(problem, node).sum())


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


def _before(problem: Problem, node: int) -> np.ndarray:
    """bool[n]: the nodes whose results lead to ``node``."""
    found = np.zeros(problem.n, dtype=np.bool_)
    waiting = [node]
    while waiting:
        for item in problem.reads[waiting.pop()]:
            producer = int(problem.producer[item])
            if not found[producer]:
                found[producer] = True
                waiting.append(producer)
    return found


def _after(problem: Problem, node: int) -> np.ndarray:
    """bool[n]: the nodes to which the results of ``node`` lead."""
    found = np.zeros(problem.n, dtype=np.bool_)
    waiting = [node]
    while waiting:
        for item in problem.writes[waiting.pop()]:
            for reader in problem.readers[item]:
                if not found[reader]:
                    found[reader] = True
                    waiting.append(reader)
    return found


def _pointer(rows: list[tuple[int, ...]]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)


def _flat(rows: list[tuple[int, ...]]) -> np.ndarray:
    return np.array([item for row in rows for item in row], dtype=np.int64)
