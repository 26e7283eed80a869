"""Exact search on tiny graphs: Dijkstra over the sets of items in memory, first runs in the given order.

Lazy moments fall back on it where no row can tell an answer that overflows from one that does not: the order of recomputation
inside a window is not in the program. That happens on about one tiny graph in seven.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import numpy as np

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem

# Items of the largest graph that is searched: states are sets of items.
_MOST_ITEMS = 24
# States after which the search gives up: a few seconds.
_MOST_STATES = 300_000


@dataclass(frozen=True)
class ExactAnswer:
    """Outcome of a search.

    Attributes:
        nodes: the cheapest sequence within the budget, or None where there is none or the search gave up.
        bound: seconds; the cost of ``nodes``, inf where there is none. Where the search gave up, everything below is ruled out.
    """

    nodes: list[int] | None
    bound: float


def searchable(problem: Problem) -> bool:
    """Whether ``search`` applies to a problem.

    It knows no in-place results, auxiliary nodes, random states, ops of the caller's loss, or nodes that write a result and
    other items.
    """
    widths = np.diff(problem.write_ptr)
    return problem.m <= _MOST_ITEMS and not (
        problem.in_place.any()
        or problem.auxiliary.any()
        or problem.replay.any()
        or problem.outside.any()
        or (widths[problem.producer[problem.lasting]] > 1).any()
    )


def search(problem: Problem, budget: int, deadline: Deadline) -> ExactAnswer:
    """The cheapest sequence of nodes whose peak is at most ``budget`` bytes, for a ``searchable`` problem.

    A state is the number of nodes that have run for the first time, and the set of items in memory.
    """
    room = budget - problem.constant_bytes
    n, items = problem.n, range(problem.m)
    size, workspace, cost = problem.bytes.tolist(), problem.workspace.tolist(), problem.cost.tolist()
    reads = [sum(1 << i for i in row) for row in problem.reads]
    writes = [sum(1 << i for i in row) for row in problem.writes]
    results = sum(1 << i for i in items if problem.lasting[i])
    again = [v for v in range(n) if not problem.pinned[v] and writes[v] and not writes[v] & results]
    weights: dict[int, int] = {0: 0}

    def weight(held: int) -> int:
        known = weights.get(held)
        if known is None:
            lowest = held & -held
            known = weights[held] = weight(held ^ lowest) + size[lowest.bit_length() - 1]
        return known

    start = (0, 0)
    extra = {start: 0.0}
    came: dict[tuple[int, int], tuple[tuple[int, int], int]] = {}
    counter = itertools.count()
    queue: list[tuple[float, int, int, tuple[int, int]]] = [(0.0, 0, next(counter), start)]
    while queue:
        seconds, _, _, state = heapq.heappop(queue)
        if seconds > extra[state]:
            continue
        done, held = state
        if done == n:
            return ExactAnswer(_path(came, state), problem.seconds + seconds)
        if len(extra) > _MOST_STATES or deadline.expired:
            return ExactAnswer(None, problem.seconds + seconds)
        moves = [(v, cost[v], (done, held | writes[v])) for v in again if v < done and writes[v] & ~held]
        moves.append((done, 0.0, (done + 1, held | writes[done])))
        moves = [
            (v, price, after) for v, price, after in moves if not reads[v] & ~held and weight(after[1]) + workspace[v] <= room
        ]
        droppable = held & ~results
        moves += [(-1, 0.0, (done, held ^ (1 << i))) for i in items if droppable >> i & 1]
        for node, price, after in moves:
            if seconds + price < extra.get(after, math.inf):
                extra[after] = seconds + price
                came[after] = (state, node)
                heapq.heappush(queue, (seconds + price, -after[0], next(counter), after))
    return ExactAnswer(None, math.inf)


def _path(came: dict[tuple[int, int], tuple[tuple[int, int], int]], state: tuple[int, int]) -> list[int]:
    nodes = []
    while state in came:
        state, node = came[state]
        if node >= 0:
            nodes.append(node)
    return nodes[::-1]
