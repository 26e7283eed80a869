"""Exhaustive search on tiny problems of every kind: Dijkstra over the contents of memory, first runs in the given order.

It covers auxiliary nodes that first run late, in-place results, several outputs of which some are results, and random states.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from remat_planner.solvers.problem.reduced_graph import Problem


@dataclass(frozen=True, order=True)
class Memory:
    """The contents of memory: nodes that ran, current items, lasting instances of each item, lasting current items, states."""

    ran: frozenset[int]
    current: frozenset[int]
    lasting: tuple[int, ...]
    same: frozenset[int]
    states: frozenset[int]


def cheapest(problem: Problem, budget: int, *, any_order: bool = False) -> float:
    """Seconds of the cheapest sequence of nodes within ``budget`` bytes; inf if none exists.

    With ``any_order`` first runs come in every order that the reads allow.
    """
    room = budget - problem.constant_bytes
    size = problem.bytes.tolist()
    base = problem.base.tolist()
    aliases = [[i for i in range(problem.m) if base[i] == root != i] for root in range(problem.m)]
    in_order = [node for node in range(problem.n) if not problem.auxiliary[node]]

    def bytes_of(memory: Memory) -> int:
        held = sum(size[i] for i in memory.current - memory.same)
        kept = sum(size[i] * count for i, count in enumerate(memory.lasting))
        return held + kept + sum(int(problem.replay[node]) for node in memory.states)

    def run(memory: Memory, node: int, state: bool) -> Memory:
        current, same, lasting = set(memory.current), set(memory.same), list(memory.lasting)
        for i in problem.writes[node]:
            if base[i] == i:
                current.difference_update(aliases[i])
                same.discard(i)
            current.add(i)
            if problem.lasting[i] and node not in memory.ran and base[i] not in same:
                lasting[base[i]] += 1
                same.add(base[i])
        states = memory.states | {node} if state else memory.states
        return Memory(memory.ran | {node}, frozenset(current), tuple(lasting), frozenset(same), states)

    def following(memory: Memory) -> list[tuple[float, Memory]]:
        after = []
        for i in memory.current:
            gone = {i, *aliases[i]} if base[i] == i else {i}
            after.append((0.0, Memory(memory.ran, memory.current - gone, memory.lasting, memory.same - gone, memory.states)))
        for node in memory.states:
            after.append((0.0, Memory(memory.ran, memory.current, memory.lasting, memory.same, memory.states - {node})))
        upcoming = next((node for node in in_order if node not in memory.ran), None)
        for node in range(problem.n):
            ran_before = node in memory.ran
            if not memory.current.issuperset(problem.reads[node]) or (ran_before and problem.pinned[node]):
                continue
            if ran_before and problem.replay[node] and node not in memory.states:
                continue
            in_turn = not ran_before and not any_order
            if in_turn and not problem.auxiliary[node] and node != upcoming:
                continue
            if in_turn and problem.auxiliary[node] and upcoming is not None and node > upcoming:
                continue  # late, never early
            for state in {False, bool(problem.replay[node]) and not ran_before}:
                after_run = run(memory, node, state)
                if bytes_of(after_run) + int(problem.workspace[node]) <= room:
                    after.append((float(problem.cost[node]), after_run))
        return after

    first = Memory(frozenset(), frozenset(), (0,) * problem.m, frozenset(), frozenset())
    best = {first: 0.0}
    queue = [(0.0, 0, first)]
    pushed = 0
    while queue:
        seconds, _, memory = heapq.heappop(queue)
        if seconds > best[memory]:
            continue
        if len(memory.ran) == problem.n:
            return seconds
        for extra, after_run in following(memory):
            if seconds + extra < best.get(after_run, math.inf):
                best[after_run] = seconds + extra
                pushed += 1
                heapq.heappush(queue, (seconds + extra, pushed, after_run))
    return math.inf
