"""Exact search on tiny graphs: Dijkstra over the sets of items in memory, first runs in the given order."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import numpy as np

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem

# The most items of a graph that is worth searching, and the most states to look at.
_MOST_ITEMS = 24
_MOST_STATES = 300_000


@dataclass(frozen=True)
class Found:
    """Outcome of a search.

    Attributes:
        nodes: the cheapest sequence within the budget, or None where there is none or the search gave up.
        bound: seconds; its cost, inf where there is none, and where the search gave up what it has ruled out.
    """

    nodes: list[int] | None
    bound: float


def searchable(problem: Problem) -> bool:
    """Whether ``search`` knows all that is in a problem.

    It does not know in-place results, auxiliary nodes, random states, the caller's loss, and results made beside other items.
    """
    widths = np.diff(problem.write_ptr)
    return problem.m <= _MOST_ITEMS and not (
        problem.in_place.any()
        or problem.auxiliary.any()
        or problem.replay.any()
        or problem.outside.any()
        or (widths[problem.producer[problem.lasting]] > 1).any()
    )


def search(problem: Problem, budget: int, deadline: Deadline) -> Found:
    """The cheapest sequence of nodes whose peak is at most ``budget`` bytes, of those that are ``searchable``.

    A state is how many nodes have run for the first time, and the items in memory.
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
            return Found(_path(came, state), problem.seconds + seconds)
        if len(extra) > _MOST_STATES or deadline.expired:
            return Found(None, problem.seconds + seconds)
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
    return Found(None, math.inf)


def _path(came: dict[tuple[int, int], tuple[tuple[int, int], int]], state: tuple[int, int]) -> list[int]:
    nodes = []
    while state in came:
        state, node = came[state]
        if node >= 0:
            nodes.append(node)
    return nodes[::-1]
